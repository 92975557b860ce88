"""What a saved view shows: charts in sections, runs grouped by policy. Read from MLflow 3.17."""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["encode_view", "run_filter", "view_state"]

Chart = dict[str, Any]

_MOST_COLUMNS = 3
_COMPUTE = "cost/charged_flops"
_PARALLEL = (
    "final/mean_keep",
    "final/charged_flops",
    "final/seconds",
    "final/class_coverage",
    "final/worst_class_accuracy",
    "final/test_accuracy",
)


def view_state(comparison: str | None = None, folded: Sequence[str] = ()) -> dict[str, Any]:
    """Return the state that the UI keeps for a view, with fresh identifiers.

    Args:
        comparison: The comparison whose runs are shown; None for all runs.
        folded: Policies whose runs are folded into one line of the list.
    """
    charts: list[Chart] = []
    sections = []
    for name, drawn in _sections().items():
        key = _identifier()
        sections.append(_section(key, name) | {"columns": min(len(drawn), _MOST_COLUMNS)})
        charts += [chart | {"metricSectionId": key} for chart in drawn]
    columns = ("final/test_accuracy", "final/mean_keep", "final/charged_flops", "final/seconds")
    return {
        "searchFilter": run_filter(comparison),
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            "tags.`policy`",
            "params.`seed`",
            *(f"metrics.`{name}`" for name in columns),
        ],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "policy"}],
        },
        "groupsExpanded": {f"tag.policy.{policy}": False for policy in folded},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def run_filter(comparison: str | None) -> str:
    """Return the search that finds runs and controls, but no summary: that one has no policy."""
    filters = ["tags.policy != ''", "tags.superseded IS NULL"]
    if comparison is not None:
        quote = '"' if "'" in comparison else "'"
        filters.insert(0, f"tags.comparison = {quote}{comparison}{quote}")
    return " AND ".join(filters)


def encode_view(name: str, state: Mapping[str, Any], now: int) -> str:
    """Return a view as the UI stores it in a tag.

    Args:
        name: What the menu shows.
        state: As `view_state` returns it.
        now: Milliseconds since 1970.
    """
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    return json.dumps(view)


def _sections() -> dict[str, list[Chart]]:
    return {
        "Accuracy": [
            _line("val/accuracy", _COMPUTE, "accuracy against charged compute"),
            _line("val/accuracy", "step", "accuracy against step"),
            _bar("final/test_accuracy", "final test accuracy"),
        ],
        "Cost": [
            _scatter("final/charged_flops", "final/test_accuracy"),
            _scatter("final/seconds", "final/test_accuracy"),
            _scatter("final/mean_keep", "final/test_accuracy"),
            _bar("final/relative_compute", "charged compute, relative to full training"),
            _bar("final/seconds", "seconds of selecting and training"),
        ],
        "What was kept": [
            _line("selection/keep_ratio", "step", "keep ratio"),
            _line("selection/class_coverage", "step", "class coverage of the kept"),
            _line("selection/seen", "step", "share of the data ever seen"),
        ],
        "All at once": [_parallel()],
        "Losses": [
            _line("val/loss", _COMPUTE, "validation loss against charged compute"),
            _line("train/loss", "step", "training loss of the kept"),
        ],
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


def _chart(kind: str, title: str) -> Chart:
    return {
        "uuid": _identifier(),
        "type": kind,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
    }


def _line(metric: str, x: str, title: str) -> Chart:
    by_step = x == "step"
    return _chart("LINE", title) | {
        "metricKey": metric,
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


def _bar(metric: str, title: str) -> Chart:
    return _chart("BAR", title) | {"metricKey": metric}


def _scatter(x: str, y: str) -> Chart:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return _chart("SCATTER", f"{y} against {x}") | axes


def _parallel() -> Chart:
    return _chart("PARALLEL", "keep, cost and accuracy") | {
        "selectedParams": [],
        "selectedMetrics": list(_PARALLEL),
        "showAllRuns": True,
    }
