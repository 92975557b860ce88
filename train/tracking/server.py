"""The MLflow UI for a store: the command that serves it, and the link to the runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gstds.common.checks import check_integer
from gstds.train.tracking.store import (
    mask_secrets,
    prepare_environment,
    prepare_store,
    tracking_uri,
)

__all__ = ["experiment_link", "open_ui", "ui_command", "ui_environment"]

START_SECONDS = 90.0


def ui_command(uri: str, port: int = 5000, host: str = "127.0.0.1") -> list[str]:
    """Return the command that serves the UI of a database store.

    Args:
        uri: The store, as `tracking_uri` returns it.
        port: Where to listen.
        host: The address to bind; only this machine unless told otherwise.
    """
    check_integer("port", port, low=1, high=65535)
    options = ["--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1"]
    # A line for each request of the browser would carry the link off the screen.
    options += ["--uvicorn-opts", "--log-level warning"]
    return [sys.executable, "-m", "mlflow", "server", *options]


def ui_environment() -> dict[str, str]:
    """Return the environment for `ui_command`: no job execution, which costs 2 GB."""
    prepare_environment()
    quiet = {"PYTHONWARNINGS": "ignore", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **quiet, **os.environ}


def experiment_link(server: str, experiment_id: str, view: str | None = None) -> str:
    """Return the link to an experiment's charts; without it the UI opens in another mode.

    Args:
        server: The server's address, such as ``http://127.0.0.1:5000``.
        experiment_id: As `prepare_store` returns it.
        view: The key of a saved view.
    """
    link = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"
    link += "?workflowType=machine_learning&compareRunsMode=CHART"
    return f"{link}&viewStateShareKey={view}" if view else link


def open_ui(
    uri: str | None = None,
    port: int = 5000,
    host: str = "127.0.0.1",
    *,
    experiment: str = "gstds",
    comparison: str | None = None,
    echo: Callable[[str], None],
) -> int:
    """Serve the UI until interrupted, and say where it is once it answers.

    For a store that is a server itself nothing is started: only the link is told.

    Args:
        uri: The store; None as for `tracking_uri`.
        port: Where to listen.
        host: The address to bind.
        experiment: The experiment to open.
        comparison: The comparison whose view is opened; None for the newest.
        echo: What shows a line to the user.

    Returns:
        The server's exit status; 0 if the user ended it.

    Raises:
        ConnectionError: If the store does not answer, or the server does not come up.
        OSError: If the port is taken.
    """
    from gstds.train.tracking.views import find_view

    address = tracking_uri(uri)
    experiment_id = prepare_store(address, experiment)
    view = find_view(address, experiment_id, comparison)
    if address.startswith(("http://", "https://")):
        echo(experiment_link(mask_secrets(address), experiment_id, view))
        return 0
    _check_port(host, port)
    folder = Path(address.removeprefix("sqlite:///")).parent if "sqlite" in address else Path.cwd()
    with _interrupted_by_signals():
        process = subprocess.Popen(
            ui_command(address, port, host), env=ui_environment(), cwd=folder
        )
        try:
            _wait_until_up(process, f"http://{host}:{port}")
            echo(experiment_link(f"http://{host}:{port}", experiment_id, view))
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGINT and SIGTERM, so that no server is left behind.

    A process that a shell started in the background has SIGINT ignored unless it says otherwise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _check_port(host: str, port: int) -> None:
    check_integer("port", port, low=1, high=65535)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another: --port"
            ) from error


def _wait_until_up(process: subprocess.Popen[bytes], server: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ConnectionError(
                f"the MLflow server ended with status {process.returncode}; its output says why"
            )
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=2):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise ConnectionError(f"the MLflow server did not answer at {server} in {START_SECONDS:.0f} s")
