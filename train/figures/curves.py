"""Curves over seeds: their mean and interval, what reaching an accuracy costs, the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Band", "cost_to_accuracy", "curves", "mean_band", "pareto_front"]

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]
Run = Mapping[str, Any]

_LEVEL = 0.95
FEWEST_FOR_A_BAND = 3


@dataclass(frozen=True)
class Band:
    """The mean of curves where all have values.

    Attributes:
        x: Common abscissa (G,).
        mean: Mean ordinate (G,).
        half_width: Half the 95% t interval of the mean (G,); None for fewer than three curves,
            whose intervals would fill the page.
    """

    x: Floats
    mean: Floats
    half_width: Floats | None


def curves(runs: Iterable[Run], x: str, y: str) -> list[Curve]:
    """Return (x, y) of each run whose history has both somewhere, in order of x."""
    found = []
    for run in runs:
        rows = [(r[x], r[y]) for r in run.get("history", ()) if _both(r, x, y)]
        if rows:
            points = np.array(sorted(rows), dtype=np.float64)
            found.append((points[:, 0], points[:, 1]))
    return found


def _both(row: Mapping[str, Any], *keys: str) -> bool:
    return all(row.get(key) is not None and np.isfinite(row[key]) for key in keys)


def mean_band(several: Sequence[Curve]) -> Band | None:
    """Return the mean of curves on the points of all, and its interval; None without curves."""
    if not several:
        return None
    low, high = max(x[0] for x, _ in several), min(x[-1] for x, _ in several)
    every = np.unique(np.concatenate([x for x, _ in several]))
    grid = every[(every >= low) & (every <= high)]
    values = np.stack([np.interp(grid, x, y) for x, y in several])
    half = None
    if len(several) >= FEWEST_FOR_A_BAND:
        from scipy import stats

        quantile = float(stats.t.ppf(0.5 + _LEVEL / 2, len(several) - 1))
        half = quantile * values.std(axis=0, ddof=1) / np.sqrt(len(several))
    return Band(grid, values.mean(axis=0), half)


def cost_to_accuracy(curve: Curve, target: float) -> float | None:
    """Return the cost at which accuracy first reaches a target, None if it never does.

    Between two evaluations the crossing is interpolated; what lies before the first is not known,
    so the first evaluation's cost stands for it.

    Args:
        curve: Cost and accuracy at each evaluation (E,), by rising cost.
        target: The accuracy.
    """
    cost, accuracy = curve
    above = np.flatnonzero(accuracy >= target)
    if not len(above):
        return None
    i = int(above[0])
    if i == 0:
        return float(cost[0])
    share = (target - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
    return float(cost[i - 1] + share * (cost[i] - cost[i - 1]))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points that no other beats, by rising cost.

    A point is beaten by one that costs no more and is no less accurate, and better in one of both.

    Args:
        points: (cost, accuracy) of each.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        last = points[front[-1]] if front else None
        if last is None or points[i][1] > last[1] or points[i] == last:
            front.append(i)
    return front
