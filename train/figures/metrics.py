"""The table of metrics, `metrics.toml`: what is tracked, summarized, laid out and drawn."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A row of the table; the head of `metrics.toml` says what stands in it."""

    key: str
    unit: str = "fraction"
    mean: bool = False
    every: str = "evaluation"
    logged: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, list[str]] = field(default_factory=dict)
    charts: tuple[tuple[str, int, str, str], ...] = ()

    def when(self, name: str) -> str:
        """Return when a name is logged: `step`, `evaluation`, `end`, `summary` or `control`."""
        section, what = name.split("/")[:2]
        if section == "summary":
            return "control" if what.startswith("control_") else section
        return "end" if section == "final" else self.every


@functools.cache
def metrics() -> tuple[Metric, ...]:
    """Return the rows."""
    text = Path(__file__).with_name("metrics.toml").read_text(encoding="utf-8")
    return tuple(Metric(**row) for row in tomllib.loads(text)["metric"])


def as_logged(values: Mapping[str, Any], when: str) -> dict[str, float]:
    """Return those of a run's or a row's values that are logged then, by name in MLflow."""
    return {
        name: values[metric.key]
        for metric in metrics()
        for name in metric.logged
        if metric.when(name) == when and values.get(metric.key) is not None
    }
