"""A saved view of the runs in the MLflow UI: accuracy against compute, grouped by policy.

MLflow stores a view as a tag of the experiment; the format is not documented (read from 3.17), so
placing one is best effort: without it the plain link opens the same runs.
"""

from __future__ import annotations

import base64
import json
import logging
import time
import uuid
import zlib
from typing import Any

from train.mlflow_store import client as make_client
from train.mlflow_store import mask_secrets

__all__ = ["find_view", "place_view", "view_state"]

_log = logging.getLogger(__name__)

VIEW_NAME = "gstds: accuracy against compute"
_TAG = "mlflow.sharedViewState."
_LONGEST_TAG = 20_000
_SECTIONS = ("val", "cost", "selection", "final")
_COMPUTE = "cost/charged_flops"
_LINES = (
    ("val", "val/accuracy", _COMPUTE),
    ("val", "val/loss", _COMPUTE),
    ("cost", _COMPUTE, "step"),
    ("selection", "selection/keep_ratio", "step"),
    ("selection", "selection/class_coverage", "step"),
)
_BARS = (("final", "final/test_accuracy"), ("final", "final/charged_flops"))


def place_view(uri: str, experiment_id: str) -> str | None:
    """Save the view on an experiment, unless it is there already.

    Args:
        uri: The store.
        experiment_id: The experiment.

    Returns:
        The view's key for a link, or None if the store did not take it (a warning says why).
    """
    try:
        client = make_client(uri)
        there = _find(client.get_experiment(experiment_id).tags)
        if there:
            return there
        key = uuid.uuid4().hex
        value = _encode(view_state())
        if len(value) > _LONGEST_TAG:
            raise ValueError(f"the view has {len(value)} characters, a tag holds {_LONGEST_TAG}")
        client.set_experiment_tag(experiment_id, _TAG + key, value)
    except Exception as error:  # best effort: the runs are there without it
        _log.warning("no view was saved in MLflow: %s", mask_secrets(str(error)))
        return None
    return key


def find_view(uri: str, experiment_id: str) -> str | None:
    """Return the key of the view on an experiment, or None."""
    try:
        return _find(make_client(uri).get_experiment(experiment_id).tags)
    except Exception as error:
        _log.warning("no view was found in MLflow: %s", mask_secrets(str(error)))
        return None


def view_state() -> dict[str, Any]:
    """Return the state that the UI keeps for the view, with fresh identifiers."""
    sections = {name: _identifier() for name in _SECTIONS}
    charts = [_line(sections[s], metric, x) for s, metric, x in _LINES]
    charts += [_bar(sections[s], metric) for s, metric in _BARS]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["tags.`policy`", "params.`seed`", "metrics.`final/test_accuracy`"],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "compareRunSections": [_section(key, name) for name, key in sections.items()],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "policy"}],
        },
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _identifier() -> str:
    return uuid.uuid4().hex[:20]


def _section(key: str, name: str) -> dict[str, Any]:
    return {
        "uuid": key,
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _chart(section: str, metric: str, kind: str) -> dict[str, Any]:
    return {
        "uuid": _identifier(),
        "type": kind,
        "runsCountToCompare": 100,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "metricKey": metric,
    }


def _line(section: str, metric: str, x: str) -> dict[str, Any]:
    by_step = x == "step"
    return _chart(section, metric, "LINE") | {
        "displayName": metric if by_step else f"{metric} against {x}",
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step" if by_step else "metric",
        "selectedXAxisMetricKey": "" if by_step else x,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
    }


def _bar(section: str, metric: str) -> dict[str, Any]:
    return _chart(section, metric, "BAR") | {"displayName": metric}


def _encode(state: dict[str, Any]) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    now = time.time_ns() // 1_000_000
    view = {"name": VIEW_NAME, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    return json.dumps(view)


def _find(tags: dict[str, str]) -> str | None:
    for key, value in tags.items():
        if key.startswith(_TAG) and VIEW_NAME in value:
            return key.removeprefix(_TAG)
    return None
