"""The runs in the MLflow UI: a saved view for each comparison and one for all, and the server.

MLflow stores a view as a tag of the experiment; the format is not documented (read from 3.17), so
placing one is best effort: without it the plain link opens the same runs.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gstds.common.checks import check_integer
from gstds.common.files import sha256
from gstds.train.figures.plots import RUN_COLORS, policy_color
from gstds.train.figures.tables import drawn_name, metrics
from gstds.train.tracking import store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


_log = logging.getLogger(__name__)
Zoom = Mapping[str, Sequence[float]]

START_SECONDS = 90.0
_TAG = "mlflow.sharedViewState."
_PREFIX = "gstds: "
_ALL = "gstds: all runs"
_MOST_VIEWS = 20
_SECTIONS = ("Better, and at what cost", "Cost", "What was kept", "All at once", "Course")
_POINTS = "Which point, by selection-validation"
AGENTS = "all agents"
"""The name of the view of all agents."""
_OF_AGENTS = {
    "Agents on held-out instances": ("val/accuracy", "val/reward", "val/mean_keep"),
    "As they learn": ("episode/reward", "episode/mean_keep"),
    "columns": ("val/accuracy", "val/mean_keep", "final/decisions"),
}
_INVISIBLE = "\u200b\u200c"  # characters of no width
_MARK = "<!-- gstds -->"
_ABOUT = f"""{_MARK}
Runs of `gstds run` and `gstds compare`. Each run has the tags `policy`, `seed`, `dataset` and
`comparison`; the tag `kind` tells runs (`run`) from the controls that a comparison makes by itself
(`control`) and from the run that holds a comparison's statistics and its report (`summary`).
The menu *Views* holds a view of each comparison, grouped by policy; `gstds ui` opens the newest.
What every metric means stands in `docs/metrics.md`.
"""


def describe_experiment(client: MlflowClient, experiment_id: str) -> None:
    """Say on the experiment's page what its runs are, unless the user wrote something."""
    there = client.get_experiment(experiment_id).tags.get("mlflow.note.content", "")
    if there != _ABOUT and (not there or there.startswith(_MARK)):
        client.set_experiment_tag(experiment_id, "mlflow.note.content", _ABOUT)


def row_label(policy: str, *, control: bool) -> str:
    """Return what a policy's runs are grouped by in a comparison's view.

    The UI takes the color of a group from a digest of its name, so that groups share one. The
    label ends in characters that nobody sees, with which it gets the policy's color in our plots.

    Args:
        policy: The policy.
        control: Whether the comparison added it by itself.
    """
    label, color = f"{policy} (control)" if control else policy, policy_color(policy)
    ends = itertools.chain.from_iterable(itertools.product(_INVISIBLE, repeat=n) for n in range(9))
    labels = (label + "".join(end) for end in ends)
    return next((one for one in labels if _group_color(f"tag.row.{one}") == color), label)


def _group_color(group: str) -> str:
    """Return the color that the UI gives to a group of runs (read from MLflow 3.17)."""
    total = mixed = 0
    for character in group:
        total = (total + ord(character)) % 255
        mixed = (mixed + total) % 255
    return RUN_COLORS[(total | mixed << 8) % len(RUN_COLORS)]


def place_view(
    uri: str,
    experiment_id: str,
    comparison: str | None = None,
    rows: Sequence[str] = (),
    zoom: Zoom = MappingProxyType({}),
    swept: Sequence[str] = (),
) -> str | None:
    """Save a view on an experiment; one that is there already is brought up to date.

    Args:
        uri: The store.
        experiment_id: The experiment.
        comparison: Show the runs of this comparison or sweep; None for the view of all runs,
            `AGENTS` for that of agents.
        rows: The labels of its rows, each folded into one line of the list of runs.
        zoom: From where to where the axis of a metric goes.
        swept: The parameters of a sweep, or as metrics (``param/NAME``) those that are numbers.

    Returns:
        The view's key for a link, or None if the store did not take it (a warning says why).
    """
    name = _ALL if comparison is None else _PREFIX + comparison
    key, now = sha256(name)[:32], time.time_ns() // 1_000_000
    try:
        state = json.dumps(view_state(comparison, rows, zoom, swept)).encode()
        packed = base64.b64encode(zlib.compress(state, 9)).decode()
        view = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
        client = store.client(uri)
        client.set_experiment_tag(experiment_id, _TAG + key, json.dumps(view))
        for old in list(_views(client, experiment_id))[_MOST_VIEWS:]:
            client.delete_experiment_tag(experiment_id, _TAG + old)
    except Exception as error:  # best effort: the runs are there without it
        _log.warning("no view was saved in MLflow: %s", store.mask_secrets(str(error)))
        return None
    return key


def view_state(
    comparison: str | None = None,
    rows: Sequence[str] = (),
    zoom: Zoom = MappingProxyType({}),
    swept: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the state that the UI keeps for a view, with fresh identifiers; see `place_view`."""
    import jinja2

    template = jinja2.Template(Path(__file__).with_name("view.json.jinja").read_text())
    drawn = sorted((*chart, metric) for metric in metrics() for chart in metric.charts)
    charts = [(section, kind, metric.drawn(kind)) for section, _, kind, metric in drawn]
    judged = drawn_name("val_accuracy" if swept else "test_accuracy")
    if comparison == AGENTS:
        charts = [(title, "line", name) for title, every in _OF_AGENTS.items() for name in every]
    elif swept:
        numbers = [name for name in swept if name.startswith("param/")]
        charts = [chart for chart in charts if chart[0] == "columns"]
        charts += [(_POINTS, "bar", judged), *((_POINTS, "scatter", name) for name in numbers)]
        charts += [(_POINTS, "parallel", name) for name in (*numbers, judged)]
    shown = {name: [c for c in charts if c[0] == name] for name, *_ in charts}
    sections = [name for name in (*_SECTIONS, *shown) if name in shown and name != "columns"]
    text = template.render(
        filter=run_filter(comparison),
        folded=rows,
        by="policy" if comparison in (None, AGENTS) else "row",
        grouped=not swept and comparison != AGENTS,
        zoom=zoom,
        compute=drawn_name("charged_flops"),
        judged=judged,
        params=[name for name in swept if not name.startswith("param/")],
        shown=shown,
        sections=[(name, uuid.uuid4().hex[:20]) for name in dict.fromkeys(sections)],
        identifier=lambda: uuid.uuid4().hex[:20],
    )
    state: dict[str, Any] = json.loads(text)
    return state


def run_filter(comparison: str | None) -> str:
    """Return the search that finds runs and controls, but no summary: that one has no policy."""
    if comparison == AGENTS:
        return "tags.kind = 'agent'"
    chosen = [] if comparison is None else [store.equals("comparison", comparison)]
    return " AND ".join([*chosen, "tags.policy != ''", "tags.superseded IS NULL"])


def find_view(uri: str, experiment_id: str, comparison: str | None = None) -> str | None:
    """Return the key of a view on an experiment, or None.

    Args:
        uri: The store.
        experiment_id: The experiment.
        comparison: The comparison that the view shows; None for the newest, or else all runs.
    """
    views = _views(store.client(uri), experiment_id)
    wanted = set(views.values()) if comparison is None else {_PREFIX + comparison}
    return next((key for key, name in views.items() if name in wanted), None)


def _views(client: MlflowClient, experiment_id: str) -> dict[str, str]:
    """Return the names of our views by their keys, the newest first, that of all runs last."""
    found = []
    for tag, value in client.get_experiment(experiment_id).tags.items():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # not of ours
            view = json.loads(value) if tag.startswith(_TAG) else {}
            if view["name"].startswith(_PREFIX):
                age = -int(view.get("updatedAt", 0))
                found.append((view["name"] == _ALL, age, tag.removeprefix(_TAG), view["name"]))
    return {key: name for _, _, key, name in sorted(found)}


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
    store.prepare_environment()
    quiet = {"PYTHONWARNINGS": "ignore", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **quiet, **os.environ}


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
    address, server = store.tracking_uri(uri), f"http://{host}:{port}"
    experiment_id = store.prepare_store(address, experiment)
    view = find_view(address, experiment_id, comparison)
    if address.startswith(("http://", "https://")):
        echo(experiment_link(store.mask_secrets(address), experiment_id, view))
        return 0
    command, path = ui_command(address, port, host), store.sqlite_path(address)
    _check_port(host, port)
    # A process that a shell started in the background ignores SIGINT unless it says otherwise.
    both = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in both}
    process = subprocess.Popen(command, env=ui_environment(), cwd=path and path.parent)
    try:
        _wait_until_up(process, server)
        echo(experiment_link(server, experiment_id, view))
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait(10)
        for number, old in before.items():
            signal.signal(number, old)


def _check_port(host: str, port: int) -> None:
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
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError):
            store.probe_store(server)
            return
        time.sleep(0.3)
    why = f"ended with status {process.returncode}" if process.poll() else "does not answer"
    raise ConnectionError(f"the MLflow server at {server} {why}; its output says more")
