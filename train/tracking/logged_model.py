"""A run's network as a logged model of MLflow: a graph without pickle, beside its run and data."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from gstds.train.tracking.store import reason_of


def logged_models(client: Any, run: Any, *, whole: bool = True) -> list[Any]:
    """Return a run's logged models that are whole; or else those that a crash cut short."""
    search = f"source_run_id = '{run.info.run_id}'"
    found = client.search_logged_models([run.info.experiment_id], search)
    return [one for one in found if (one.status == "READY") == whole]


def log_network(client: Any, run_id: str, folder: Path) -> str:
    """Log the network in a run's folder, unless that was done.

    Args:
        client: The store's.
        run_id: The run, as MLflow calls it.
        folder: Its folder.

    Returns:
        Why it could not be rebuilt, or not be taken down as a graph; nothing if it was logged.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    for half in logged_models(client, run, whole=False):
        client.delete_logged_model(half.model_id)
    if not logged_models(client, run):
        model = client.create_logged_model(run.info.experiment_id, "network", run_id)
        with tempfile.TemporaryDirectory() as place:
            try:
                write_model(folder, model, f"{place}/model")
            except (Exception, SystemExit) as error:  # of a user's file, too
                client.delete_logged_model(model.model_id)
                return reason_of(error)
            client.log_model_artifacts(model.model_id, f"{place}/model")
        client.log_batch(run_id, metrics=_judgment(client, run, model.model_id))
        client.finalize_logged_model(model.model_id, "READY")
    (model,) = logged_models(client, run)
    if not any(one.model_id == model.model_id for one in run.outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return ""


def write_model(folder: Path, model: Any, place: str) -> None:
    """Write what MLflow keeps of a network: its graph, an example, and what it takes and gives.

    Args:
        folder: The folder of its run.
        model: The logged model that it becomes.
        place: A folder that is not there yet.

    Raises:
        Exception: Whatever a user's network meets where it is rebuilt or taken down as a graph.
    """
    import mlflow.pytorch
    import torch
    from mlflow.models import Model, infer_signature

    from gstds.envs.task.network import example_images, load_network

    network, note = load_network(folder)
    known = {"artifact_path": model.artifact_location, "run_id": model.source_run_id}
    images, more = (example_images(note, count) for count in (2, 3))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(
            network,
            place,
            mlflow_model=Model(model_uuid=model.model_id, model_id=model.model_id, **known),
            signature=infer_signature(images.numpy(), network(images).numpy()),
            input_example=images.numpy(),
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "numpy"],
            metadata=note,
        )
        graph = torch.export.load(f"{place}/data/model.pt2").module()
        # It may hold for the number in the example alone.
        torch.testing.assert_close(graph(more), network(more), rtol=1e-3, atol=1e-3)


def _judgment(client: Any, run: Any, model_id: str) -> list[Any]:
    """Return the run's last accuracies and losses as the model's, on the run's data.

    Of the run they are the rows that are there already.
    """
    from mlflow.entities import Metric

    data = run.inputs.dataset_inputs[0].dataset
    about = {"dataset_name": data.name, "dataset_digest": data.digest, "model_id": model_id}
    keys = [key for key in run.data.metrics if key.startswith(("val/", "final/test_"))]
    points = [client.get_metric_history(run.info.run_id, key) for key in keys]
    last = [max(history, key=lambda one: one.step) for history in points]
    return [Metric(one.key, one.value, one.timestamp, one.step, **about) for one in last]
