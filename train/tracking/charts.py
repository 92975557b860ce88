"""What a saved view shows: charts in sections, runs grouped by policy. Read from MLflow 3.17."""

from __future__ import annotations

import base64
import itertools
import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gstds.train.figures.metrics import metrics

__all__ = ["encode_view", "run_filter", "view_state"]

_SECTIONS = ("Accuracy", "Cost", "What was kept", "All at once", "Losses")


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
