"""Fixtures of tests that need an MLflow store or a port."""

from __future__ import annotations

import contextlib
import shutil
import socket
from pathlib import Path

import pytest

from gstds.train.tracking.store import prepare_store


@pytest.fixture(scope="session")
def mlflow_schema(tmp_path_factory) -> Path:
    """An MLflow database without experiments of ours: making its schema takes seconds."""
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
