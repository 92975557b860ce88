"""Fixtures of tests that need an MLflow store or a port, and a look at what arrived there."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gstds.train.tracking.delivery import read_target
from gstds.train.tracking.store import client, prepare_store
from gstds.train.tracking.uploader import sync


@pytest.fixture(scope="session")
def mlflow_schema(tmp_path_factory) -> Path:
    """An MLflow database without experiments of ours."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    with contextlib.chdir(path.parent):  # MLflow puts the artifacts of its own experiment there
        prepare_store(f"sqlite:///{path}", "template")
    return path


@pytest.fixture
def store_uri(mlflow_schema, tmp_path) -> str:
    """The URI of a fresh sqlite store in the test's own folder."""
    place = tmp_path / "store" / "mlflow.db"
    place.parent.mkdir()
    shutil.copy(mlflow_schema, place)
    return f"sqlite:///{place}"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def delivered(uri: str, folder: Path) -> Any:
    """Deliver what a run's folder holds, and return the run in the store."""
    sync(folder, uri)
    target = read_target(folder)
    assert target is not None
    assert target.mlflow_run_id is not None
    return client(uri).get_run(target.mlflow_run_id)


def history(uri: str, folder: Path, key: str = "train/loss") -> list[tuple[int, float]]:
    """Return a metric's values in the store, by step, as often as they stand there."""
    target = read_target(folder)
    assert target is not None
    points = client(uri).get_metric_history(str(target.mlflow_run_id), key)
    return sorted((point.step, point.value) for point in points)


def stored(uri: str, place: Path, run: Mapping[str, Any]) -> Any:
    """Deliver what a folder holds, and return a run of a result in the store."""
    sync(place)
    every = [experiment.experiment_id for experiment in client(uri).search_experiments()]
    (found,) = client(uri).search_runs(every, f"tags.`gstds.run_id` = '{run['run_id']}'")
    return client(uri).get_run(found.info.run_id)
