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
    scale: float = 1.0
    logged: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, list[str]] = field(default_factory=dict)
    charts: tuple[tuple[str, int, str], ...] = ()

    def when(self, name: str) -> str:
        """Return when a name is logged: `step`, `evaluation`, `end`, `summary` or `control`."""
        section, _, what = name.partition("/")
        if section == "summary":
            return "control" if what.startswith("control_") else section
        return "end" if section == "final" else self.every

    def drawn(self, kind: str) -> str:
        """Return the name that a chart draws: the one for the eye, where there is one."""
        of_its_course = next(iter(self.logged)) if kind == "line" else f"final/{self.key}"
        return next((name for name in self.logged if "/" not in name), of_its_course)


@functools.cache
def metrics() -> tuple[Metric, ...]:
    """Return the rows."""
    text = Path(__file__).with_name("metrics.toml").read_text(encoding="utf-8")
    return tuple(Metric(**row) for row in tomllib.loads(text)["metric"])


def drawn_name(key: str) -> str:
    """Return the name by which charts show a metric."""
    return next(metric for metric in metrics() if metric.key == key).drawn("bar")


def as_logged(values: Mapping[str, Any], when: str) -> dict[str, float]:
    """Return those of a run's or a row's values that are logged then, by name in MLflow.

    A name without a section is for the eye: in its own unit, of four digits.
    """
    return {
        name: values[metric.key] if "/" in name else _rounded(metric.scale * values[metric.key])
        for metric in metrics()
        for name in metric.logged
        if metric.when(name) == when and values.get(metric.key) is not None
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
