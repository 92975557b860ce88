"""Saved views of the runs in the MLflow UI: one for each comparison, one for all runs.

MLflow stores a view as a tag of the experiment; the format is not documented (read from 3.17), so
placing one is best effort: without it the plain link opens the same runs.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.files import sha256
from gstds.train.figures.metrics import metrics
from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.store import mask_secrets, store_exists

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["describe_experiment", "find_view", "folder_of", "place_view", "run_filter"]
__all__ += ["view_state"]

_log = logging.getLogger(__name__)

_TAG = "mlflow.sharedViewState."
_PREFIX = "gstds: "
_ALL = "gstds: all runs"
_LONGEST_TAG = 20_000
_MOST_VIEWS = 20
_SECTIONS = ("Accuracy", "Cost", "What was kept", "All at once", "Losses")
_MARK = "<!-- gstds -->"
_ABOUT = f"""{_MARK}
Runs of `gstds run` and `gstds compare`. Each run has the tags `policy`, `seed`, `dataset` and
`comparison`; the tag `kind` tells runs (`run`) from the controls that a comparison makes by itself
(`control`) and from the run that holds a comparison's statistics and its report (`summary`).
The menu *Views* holds a view of each comparison, grouped by policy; `gstds ui` opens the newest.
What every metric means stands in `docs/tracking.md`.
"""


def describe_experiment(client: MlflowClient, experiment_id: str) -> None:
    """Say on the experiment's page what its runs are, unless the user wrote something."""
    there = client.get_experiment(experiment_id).tags.get("mlflow.note.content", "")
    if there != _ABOUT and (not there or there.startswith(_MARK)):
        client.set_experiment_tag(experiment_id, "mlflow.note.content", _ABOUT)


def place_view(
    uri: str, experiment_id: str, comparison: str | None = None, policies: Sequence[str] = ()
) -> str | None:
    """Save a view on an experiment; one that is there already is brought up to date.

    Args:
        uri: The store.
        experiment_id: The experiment.
        comparison: Show the runs of this comparison; None for the view of all runs.
        policies: Its policies, each folded into one line of the list of runs.

    Returns:
        The view's key for a link, or None if the store did not take it (a warning says why).
    """
    try:
        return _place(make_client(uri), experiment_id, comparison, policies)
    except Exception as error:  # best effort: the runs are there without it
        _log.warning("no view was saved in MLflow: %s", mask_secrets(str(error)))
        return None


def _place(
    client: MlflowClient, experiment_id: str, comparison: str | None, policies: Sequence[str]
) -> str:
    name = _ALL if comparison is None else _PREFIX + comparison
    key = sha256(name)[:32]
    state = json.dumps(view_state(comparison, policies)).encode()
    packed = base64.b64encode(zlib.compress(state, 9)).decode()
    now = time.time_ns() // 1_000_000
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    value = json.dumps(view)
    if len(value) > _LONGEST_TAG:
        raise ValueError(f"the view has {len(value)} characters, a tag holds {_LONGEST_TAG}")
    client.set_experiment_tag(experiment_id, _TAG + key, value)
    for old in _ours(client.get_experiment(experiment_id).tags)[_MOST_VIEWS:]:
        client.delete_experiment_tag(experiment_id, _TAG + old)
    return key


def view_state(comparison: str | None = None, folded: Sequence[str] = ()) -> dict[str, Any]:
    """Return the state that the UI keeps for a view, with fresh identifiers.

    Args:
        comparison: The comparison whose runs are shown; None for all runs.
        folded: Policies whose runs are folded into one line of the list of runs.
    """
    import jinja2

    template = jinja2.Template(Path(__file__).with_name("view.json.jinja").read_text())
    drawn = sorted(
        (section, place, kind, title, metric)
        for metric in metrics()
        for section, place, kind, title in metric.charts
    )
    shown = {name: list(group) for name, group in itertools.groupby(drawn, lambda one: one[0])}
    text = template.render(
        filter=run_filter(comparison),
        folded=folded,
        shown=shown,
        sections=[(name, uuid.uuid4().hex[:20]) for name in _SECTIONS],
        identifier=lambda: uuid.uuid4().hex[:20],
    )
    state: dict[str, Any] = json.loads(text)
    return state


def run_filter(comparison: str | None) -> str:
    """Return the search that finds runs and controls, but no summary: that one has no policy."""
    filters = ["tags.policy != ''", "tags.superseded IS NULL"]
    if comparison is not None:
        quote = '"' if "'" in comparison else "'"
        filters.insert(0, f"tags.comparison = {quote}{comparison}{quote}")
    return " AND ".join(filters)


def find_view(uri: str, experiment_id: str, comparison: str | None = None) -> str | None:
    """Return the key of a view on an experiment, or None.

    Args:
        uri: The store.
        experiment_id: The experiment.
        comparison: The comparison that the view shows; None for the newest, or else all runs.
    """
    try:
        tags = make_client(uri).get_experiment(experiment_id).tags
    except Exception as error:
        _log.warning("no view was found in MLflow: %s", mask_secrets(str(error)))
        return None
    ours = _ours(tags)
    if comparison is None:
        return next(iter(ours), None)
    return next((k for k in ours if _name(tags[_TAG + k]) == _PREFIX + comparison), None)


def _ours(tags: Mapping[str, str]) -> list[str]:
    """Return the keys of our views, the newest first, that of all runs last."""
    views = {}
    for key, value in tags.items():
        if key.startswith(_TAG) and _name(value).startswith(_PREFIX):
            stamp = -int(json.loads(value).get("updatedAt", 0))
            views[key.removeprefix(_TAG)] = (_name(value) == _ALL, stamp)
    return sorted(views, key=lambda key: views[key])


def _name(value: str) -> str:
    try:
        view: dict[str, Any] = json.loads(value)
        return str(view.get("name", ""))
    except (ValueError, AttributeError):
        return ""


def folder_of(run: str, uri: str) -> Path:
    """Return the folder of a run, by its own id or by MLflow's.

    Raises:
        LookupError: If the store is not there, or has no such run.
    """
    if not store_exists(uri):
        raise LookupError(f"there is no {uri}")
    client = make_client(uri)
    every = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(every, f"tags.`gstds.run_id` = '{run}'", max_results=1)
    tags = (found[0] if found else client.get_run(run)).data.tags
    return Path(tags["folder"])
