from __future__ import annotations

import os

import numpy as np
import pytest

from gstds.observation.summary import SUMMARY_NAMES
from gstds.policies.learned.agent_file import (
    Actor,
    AgentFile,
    AgentFileError,
    load_agent,
    save_agent,
)
from gstds.train.agents.registry import register_agent

S = len(SUMMARY_NAMES)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "mean": np.zeros(S), "std": np.ones(S),
        "weight_0": 5 * rng.normal(size=(3, S)), "bias_0": rng.normal(size=3),
    }  # fmt: skip
    agent = AgentFile(
        actions={"kind": "discrete", "ratios": [0.1, 0.3, 1.0]},
        activation="tanh",
        interval=2,
        picker="uniform",
        tensors={name: tensor.astype(np.float32) for name, tensor in tensors.items()},
    )
    save_agent(tmp_path / "agent", agent)
    return tmp_path / "agent"


def test_a_registered_agent_answers_as_the_policy_does(folder, store_uri, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    where = mlflow.get_tracking_uri()
    assert register_agent(folder, "keeper", store_uri) == "models:/keeper/1"
    assert register_agent(folder, "keeper", store_uri) == "models:/keeper/2"
    assert mlflow.get_tracking_uri() == where
    assert "MLFLOW_TRACKING_URI" not in os.environ
    mlflow.set_tracking_uri(store_uri)
    try:
        model = mlflow.pyfunc.load_model("models:/keeper/2")
        summaries = np.random.default_rng(1).normal(size=(20, S)).astype(np.float32)
        wanted = [Actor(load_agent(str(folder))).ratio(row) for row in summaries]
        assert model.predict(summaries).tolist() == wanted
        assert len(set(wanted)) > 1
        assert model.metadata.signature.inputs.to_dict()[0]["tensor-spec"]["shape"] == (-1, S)
        with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
            model.predict(summaries[:, :5])
        files = mlflow.artifacts.download_artifacts(
            "models:/keeper/2", dst_path=str(tmp_path / "d")
        )
        names = {path.name for path in (tmp_path / "d").rglob("*") if path.is_file()}
        assert {"agent.json", "agent.safetensors", "MLmodel"} <= names
        assert not any(name.endswith((".pkl", ".py", ".pt")) for name in names), files
    finally:
        mlflow.set_tracking_uri(None)


def test_no_damaged_agent_is_registered(folder, store_uri):
    (folder / "agent.json").write_text("{")
    with pytest.raises(AgentFileError):
        register_agent(folder, "keeper", store_uri)
