"""The network as MLflow keeps it: asked for behind the record, delivered once, by nobody's wait."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gstds
from gstds.common.files import is_locked
from gstds.envs.data.datasets import load_data
from gstds.train.cli.main import main
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from gstds.train.tracking import logged_model, uploader
from gstds.train.tracking.delivery import read_target
from gstds.train.tracking.log import LOG_NAME, ask_for_model, has_ended, read_log
from gstds.train.tracking.store import client, uploads_folder
from gstds.train.tracking.uploader import Upload, add_network, sync, undelivered
from tests.stops import StopAfter
from tests.stores import delivered, history
from tests.train.tracking.test_uploader import its_uploaders, wait_for


def options(dataset, **more):
    return config_from(
        {"dataset": dataset, "policy": "random", "epochs": 2, "batch_size": 32, "learner": "mlp"}
        | more
    )


def kinds(folder):
    return [line["kind"] for line, _ in read_log(folder / LOG_NAME)]


def models_of(uri, folder):
    store = client(uri)
    run = store.get_run(read_target(folder).mlflow_run_id)
    found = store.search_logged_models([run.info.experiment_id])
    return run, [one for one in found if one.source_run_id == run.info.run_id]


@pytest.fixture
def uploads(monkeypatch):
    """Let runs start the process, as they do for users."""
    monkeypatch.setenv("GSTDS_UPLOADER", "1")


@pytest.fixture
def quick(monkeypatch):
    """Taking a network down as a graph takes seconds; what is delivered here is a file."""

    def written(folder, model, place):
        os.makedirs(place)
        (Path(place) / "MLmodel").write_text(model.model_id)

    monkeypatch.setattr(logged_model, "write_model", written)


# ------------------------------------------------------------------ who asks


def test_a_run_of_the_command_line_asks_for_its_network_once(
    store_uri, tiny_npz, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["run", "--dataset", tiny_npz, "--policy", "random", "--epochs", "1", "--quiet"]
    words += ["--batch-size", "32", "--tracking-uri", store_uri]
    assert main([*words, "--out", "a"]) == 0
    assert kinds(tmp_path / "a")[-2:] == ["end", "model"]
    assert main(["run", "--resume", "a", "--quiet"]) == 0
    assert kinds(tmp_path / "a").count("model") == 1
    monkeypatch.setattr(sys, "argv", ["gstds", *words, "--no-model", "--out", "b"])
    assert main(None) == 0
    assert main(["run", "--resume", "b", "--quiet"]) == 0
    assert main([*words, "--no-tracking", "--out", "c"]) == 0
    gstds.run("random", dataset=tiny_npz, batch_size=32, epochs=1, out="d", no_model=True,
              tracking=store_uri)  # fmt: skip
    assert [kinds(tmp_path / name)[-1] for name in "bcd"] == ["end"] * 3
    gstds.run("random", dataset=tiny_npz, batch_size=32, epochs=1, out="e", tracking=store_uri)
    assert kinds(tmp_path / "e")[-1] == "model"


def test_only_a_run_that_has_finished_is_asked_of(store_uri, tiny_npz, tmp_path, caplog):
    stopped, diverged = tmp_path / "s", tmp_path / "d"
    execute(options(tiny_npz), stopped, upload=Upload(store_uri), stop=StopAfter(3))
    execute(options(tiny_npz, learning_rate=100.0), diverged, upload=Upload(store_uri))
    for folder in (stopped, diverged):
        add_network(folder, store_uri)
        assert kinds(folder)[-1] == "end"
    execute(options(tiny_npz), stopped, upload=Upload(store_uri), resume=True)
    add_network(stopped, store_uri)
    assert kinds(stopped)[-1] == "model"
    assert has_ended(stopped / LOG_NAME)
    add_network(tmp_path / "absent", store_uri)
    (diverged / LOG_NAME).unlink()
    add_network(diverged, store_uri)
    assert "nobody delivers to MLflow" in caplog.text


def test_a_line_that_a_crash_cut_short_is_written_whole(store_uri, tiny_npz, tmp_path):
    execute(options(tiny_npz), tmp_path, upload=Upload(store_uri))
    log = tmp_path / LOG_NAME
    assert ask_for_model(log)
    whole = log.read_bytes()
    log.write_bytes(whole[:-9])
    assert not has_ended(log)
    assert ask_for_model(log)
    assert kinds(tmp_path)[-2:] == ["end", "model"]
    assert not ask_for_model(log)


def test_a_network_asked_for_just_behind_the_last_delivery_is_delivered(
    quick, store_uri, tiny_npz, tmp_path, monkeypatch
):
    execute(options(tiny_npz), tmp_path / "r", upload=Upload(store_uri))
    deliver = uploader.Delivery.deliver

    def and_then_it_is_asked_for(self):
        count = deliver(self)
        add_network(tmp_path / "r", store_uri)
        return count

    monkeypatch.setattr(uploader.Delivery, "deliver", and_then_it_is_asked_for)
    left, _, _ = uploader.Uploader(store_uri).look()
    assert len(left) == 1
    assert uploader.Uploader(store_uri).work() == set()
    assert len(models_of(store_uri, tmp_path / "r")[1]) == 1


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ({}, 2),
        pytest.param({"model": "all"}, 4, marks=pytest.mark.slow),
        pytest.param({"no_model": True}, 0, marks=pytest.mark.slow),
    ],
)
def test_a_comparison_asks_for_the_best_of_each_policy_by_selection_validation(
    store_uri, tiny_npz, tmp_path, words, asked
):
    content = gstds.compare(
        ["random", "full"], dataset=tiny_npz, seeds=2, epochs=1, batch_size=32, learner="mlp",
        controls=False, baseline="random", out=tmp_path / "c", tracking=store_uri, **words,
    )  # fmt: skip
    logs = {path.parent for path in (tmp_path / "c" / "runs").rglob(LOG_NAME)}
    chosen = {folder for folder in logs if kinds(folder)[-1] == "model"}
    assert len(chosen) == asked
    if asked == 2:
        results = {json.loads((f / "result.json").read_text())["run_id"]: f for f in logs}
        for policy in ("random", "full"):
            rows = [run for run in content["runs"] if run["policy"] == policy]
            (mine,) = [run for run in rows if results[run["run_id"]] in chosen]
            assert mine["val_accuracy"] == max(run["val_accuracy"] for run in rows)


# ------------------------------------------------------------------ delivery


@pytest.mark.parametrize(
    ("method", "killed"),
    [
        ("create_logged_model", "after"),
        ("log_model_artifacts", "before"),
        ("log_batch", "before"),
        ("log_batch", "after"),
        ("finalize_logged_model", "after"),
        ("log_outputs", "after"),
    ],
)
def test_a_kill_at_any_call_leaves_one_model(
    store_uri, tiny_npz, tmp_path, quick, monkeypatch, method, killed
):
    execute(options(tiny_npz, epochs=1), tmp_path / "r", upload=Upload(store_uri))
    sync(tmp_path)
    before = {key: history(store_uri, tmp_path / "r", key) for key in ("val/loss", "val/accuracy")}
    add_network(tmp_path / "r", store_uri)
    from mlflow.tracking import MlflowClient

    real = getattr(MlflowClient, method)

    def dies(self, *words, **more):
        if killed == "after":
            real(self, *words, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, dies)
        with pytest.raises(KeyboardInterrupt):
            sync(tmp_path)
    assert undelivered(tmp_path) == [tmp_path / "r"]
    sync(tmp_path)
    assert undelivered(tmp_path) == []
    run, models = models_of(store_uri, tmp_path / "r")
    assert [(one.name, str(one.status)) for one in models] == [("network", "READY")]
    assert [one.model_id for one in run.outputs.model_outputs] == [models[0].model_id]
    assert {key: history(store_uri, tmp_path / "r", key) for key in before} == before
    assert run.info.status == "FINISHED"
    told = {one.key: (one.value, one.dataset_name) for one in models[0].metrics}
    assert told["val/accuracy"] == (
        run.data.metrics["val/accuracy"],
        run.inputs.dataset_inputs[0].dataset.name,
    )
    assert set(told) == {"val/accuracy", "val/loss", "final/test_accuracy", "final/test_loss"}


@pytest.mark.slow
def test_the_process_delivers_it_behind_the_record(uploads, quick, store_uri, tiny_npz, tmp_path):
    execute(options(tiny_npz, epochs=1), tmp_path / "r", upload=Upload(store_uri))
    wait_for(lambda: not undelivered(tmp_path))
    os.environ["GSTDS_UPLOADER"] = "0"
    add_network(tmp_path / "r", store_uri)
    assert undelivered(tmp_path) == [tmp_path / "r"]
    uploader.deliver_waiting(store_uri)
    assert undelivered(tmp_path) == []
    assert len(models_of(store_uri, tmp_path / "r")[1]) == 1


@pytest.mark.slow
def test_a_network_that_cannot_be_built_any_more_is_delivered_as_its_weights(
    store_uri, tiny_npz, tmp_path, monkeypatch, caplog
):
    (tmp_path / "gone_net.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = options(tiny_npz, learner="gone_net:make", epochs=1, learning_rate=0.01)
    execute(config, tmp_path / "r", upload=Upload(store_uri))
    (tmp_path / "gone_net.py").unlink()
    sys.modules.pop("gone_net")
    add_network(tmp_path / "r", store_uri)
    run = delivered(store_uri, tmp_path / "r")
    assert run.info.status == "FINISHED"
    assert models_of(store_uri, tmp_path / "r")[1] == []
    assert "weights alone: the network in" in run.data.tags["model"]
    assert "no module 'gone_net'" in run.data.tags["model"]
    assert "its weights alone are logged" in caplog.text
    files = client(store_uri).list_artifacts(run.info.run_id, "model")
    assert [one.path for one in files] == ["model/model.json", "model/weights.safetensors"]
    assert main(["export", "r", "--to", "registry", "gone"]) == 2


def test_a_run_that_has_not_finished_is_not_registered(store_uri, tiny_npz, tmp_path, capsys):
    execute(options(tiny_npz), tmp_path, upload=Upload(store_uri), stop=StopAfter(3))
    assert main(["export", str(tmp_path), "--to", "registry", "net"]) == 2
    assert "is not in MLflow: its run has not finished" in capsys.readouterr().err


# ------------------------------------------------------------------ the real thing


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gray", "color", "own"])
def test_the_logged_network_gives_the_accuracy_of_the_result(
    store_uri, tiny_npz, tmp_path, monkeypatch, kind
):
    import mlflow

    (tmp_path / "own_cnn.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    body = [nn.Conv2d(shape[0], 4, 3), nn.GELU(), nn.Flatten()]\n"
        "    return nn.Sequential(*body, nn.LazyLinear(classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    images = np.load(tiny_npz.removeprefix("npz:"))
    np.savez("color.npz", X=np.stack([images["X"]] * 3, axis=-1), y=images["y"])
    dataset = {"color": f"npz:{tmp_path}/color.npz"}.get(kind, tiny_npz)
    learner = {"own": "own_cnn:make"}.get(kind, "small-cnn")
    result = execute(options(dataset, learner=learner), tmp_path / "r", upload=Upload(store_uri))
    monkeypatch.chdir(tmp_path.parent)
    sys.modules.pop("own_cnn", None)
    add_network(tmp_path / "r", store_uri)
    sync(tmp_path)
    _, (model,) = models_of(store_uri, tmp_path / "r")
    test = load_data(dataset).test
    shown = test.gather(np.arange(len(test)))
    monkeypatch.setattr(mlflow, "get_tracking_uri", mlflow.get_tracking_uri)
    mlflow.set_tracking_uri(store_uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
        graph = mlflow.pytorch.load_model(f"models:/{model.model_id}")
    finally:
        mlflow.set_tracking_uri(None)
    (given,) = loaded.metadata.signature.inputs.inputs
    assert (given.shape, given.type) == ((-1, *test.source.shape), np.dtype(np.uint8))
    answers = loaded.predict(shown.numpy())
    assert float((answers.argmax(1) == test.labels).mean()) == result["test_accuracy"] > 0.5
    with torch.inference_mode():
        np.testing.assert_allclose(graph(shown[:1]).numpy(), answers[:1], atol=1e-4)
    assert len(loaded.input_example) == 2
    files = {path.name for path in Path(model.artifact_location.removeprefix("file://")).rglob("*")}
    assert "model.pt2" in files
    assert not {name for name in files if name.endswith((".pth", ".pkl", ".py"))}
    assert main(["export", str(tmp_path / "r"), "--to", "registry", "tiny"]) == 0
    (version,) = client(store_uri).search_model_versions("name = 'tiny'")
    assert version.source == model.artifact_location
    assert version.run_id == model.source_run_id


# Once in five tries, on a loaded machine, the second export failed: MLflow had the weights alone.
@pytest.mark.soak
def test_a_process_killed_while_it_exports_is_replaced_and_the_model_is_one(
    uploads,
    store_uri,
    tiny_npz,
    tmp_path,
):
    execute(options(tiny_npz), tmp_path / "r", upload=Upload(store_uri))
    add_network(tmp_path / "r", store_uri)
    store = client(store_uri)
    wait_for(lambda: read_target(tmp_path / "r").mlflow_run_id)
    wait_for(lambda: models_of(store_uri, tmp_path / "r")[1])  # the export has begun
    for pid in its_uploaders(store_uri):
        os.kill(pid, signal.SIGKILL)
    # A dying one has no command line any more and still holds the lock for a while.
    wait_for(lambda: not is_locked(uploads_folder(store_uri) / "lock"))
    _, (half,) = models_of(store_uri, tmp_path / "r")
    Upload(store_uri).follow(tmp_path / "r")
    wait_for(lambda: not undelivered(tmp_path))
    _, (model,) = models_of(store_uri, tmp_path / "r")
    assert str(model.status) == "READY"
    if str(half.status) != "READY":
        assert model.model_id != half.model_id
    assert store.get_run(model.source_run_id).info.status == "FINISHED"
    assert len(store.get_run(model.source_run_id).outputs.model_outputs) == 1
