"""Saved views of the runs in the MLflow UI: one for each comparison, one for all runs.

MLflow stores a view as a tag of the experiment; the format is not documented (read from 3.17), so
placing one is best effort: without it the plain link opens the same runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gstds.train.tracking.charts import encode_view, view_state
from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.store import mask_secrets

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["find_view", "place_view"]

_log = logging.getLogger(__name__)

_TAG = "mlflow.sharedViewState."
_PREFIX = "gstds: "
_ALL = "gstds: all runs"
_LONGEST_TAG = 20_000
_MOST_VIEWS = 20


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
    key = hashlib.sha256(name.encode()).hexdigest()[:32]
    value = encode_view(name, view_state(comparison, policies), time.time_ns() // 1_000_000)
    if len(value) > _LONGEST_TAG:
        raise ValueError(f"the view has {len(value)} characters, a tag holds {_LONGEST_TAG}")
    client.set_experiment_tag(experiment_id, _TAG + key, value)
    for old in _ours(client.get_experiment(experiment_id).tags)[_MOST_VIEWS:]:
        client.delete_experiment_tag(experiment_id, _TAG + old)
    return key


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
