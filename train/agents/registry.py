"""An agent in MLflow's model registry: its data files, and a signature; no code and no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.observation.summary import SUMMARY_NAMES
from gstds.policies.learned.agent_file import Actor, AgentFile, load_agent


class RegisteredAgent:
    """What `mlflow.pyfunc.load_model` returns the predictions of.

    Args:
        agent: What was stored of the agent.
    """

    def __init__(self, agent: AgentFile) -> None:
        self._actor = Actor(agent)

    def predict(self, summaries: Any, params: Any = None) -> npt.NDArray[np.float64]:
        """Return the keep ratios (M,) for summaries (M, S), the consecutive ones of one run.

        Args:
            summaries: Rows as `gstds.observation.summary.summarize` makes them.
            params: Nothing; MLflow hands it over.
        """
        self._actor.reset()
        rows = np.atleast_2d(np.asarray(summaries, dtype=np.float64))
        return np.array([self._actor.ratio(row) for row in rows])


def _load_pyfunc(path: str) -> RegisteredAgent:
    """Return the agent in a folder; MLflow calls this by the name that the model's file gives."""
    return RegisteredAgent(load_agent(path))


def register_agent(folder: str | Path, name: str, uri: str) -> str:
    """Put an exported agent into the model registry, as its next version.

    Args:
        folder: The agent's folder, as `gstds learn` leaves it: ``DIR/best``.
        name: The registered model's name.
        uri: The MLflow store, which is the registry too unless MLflow was told of another.

    Returns:
        Where the version is: ``models:/NAME/VERSION``.

    Raises:
        AgentFileError: If the agent is not there, or damaged.
        mlflow.exceptions.MlflowException: If the store has no registry, or refuses.
    """
    load_agent(str(folder))
    from gstds.train.tracking.store import prepare_environment

    prepare_environment()
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    # MLflow logs models to its one global store only; a registry of its own stays what it was.
    # Setting it names it in the environment too, where None takes it out again.
    was_set = mlflow.tracking.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    before: Any = mlflow.get_tracking_uri() if was_set else None
    mlflow.set_tracking_uri(uri)
    try:
        info = mlflow.pyfunc.log_model(
            name="agent",
            loader_module=__name__,
            data_path=str(folder),
            pip_requirements=["gstds"],
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype(np.float32), (-1, len(SUMMARY_NAMES)))]),
                Schema([TensorSpec(np.dtype(np.float64), (-1,))]),
            ),
            registered_model_name=name,
            await_registration_for=None,
        )
    finally:
        mlflow.set_tracking_uri(before)
    return f"models:/{name}/{info.registered_model_version}"
