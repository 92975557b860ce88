"""The plot of what accuracy costs: every policy a point, the Pareto front marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.train.figures.curves import pareto_front
from gstds.train.figures.frame import draw_mean, new_figure, save_figure
from gstds.train.figures.palette import policy_color
from gstds.train.figures.tables import flop_unit, judged_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_pareto"]

Points = Sequence[tuple[float, float]]
Edges = tuple[float, float, float, float]
Place = tuple[float, float, str]

_PLACES: tuple[Place, ...] = tuple(
    (float(side * dx), float(dy), "left" if side > 0 else "right")
    for dx in (9, 14, 22)
    for dy in (0, 9, -9, 18, -18, 27, -27)
    for side in (1, -1)
)


def plot_pareto(summary: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw test accuracy against charged compute and against seconds, the Pareto front marked.

    Args:
        summary: As `gstds.train.figures.statistics.summarize` returns it, of policies and controls.
        path: The PNG to write.
    """
    figure, (left, right) = new_figure(11.0, 4.8, columns=2)
    size, unit = flop_unit([row.get("charged_flops") for row in summary])
    _draw_front(left, summary, "charged_flops", size)
    _draw_front(right, summary, "seconds", 1.0)
    ylabel = f"{judged_on(summary)} accuracy (%), mean ± 95% CI"
    left.set(xlabel=f"charged compute ({unit})", ylabel=ylabel)
    right.set_xlabel("seconds of selecting and training")
    figure.suptitle("ringed and joined: no other is both cheaper and more accurate", fontsize=9)
    save_figure(figure, path)


def _draw_front(axes: Axes, summary: Sequence[Mapping[str, Any]], cost: str, size: float) -> None:
    rows = [r for r in summary if r.get("mean") is not None and r.get(cost) is not None]
    points = [(r[cost] / size, 100 * r["mean"]) for r in rows]
    front = np.array([points[i] for i in pareto_front(points)]).reshape(-1, 2).T
    axes.plot(*front, "-", color="#bbbbbb", zorder=1)
    axes.plot(
        *front, "o", markersize=13, markerfacecolor="none", markeredgecolor="#666666", zorder=2
    )
    for row, (x, _) in zip(rows, points, strict=True):
        draw_mean(axes, row, x, capsize=3, markersize=6)
    axes.set_xlim(left=0, right=1.15 * max((x for x, _ in points), default=1.0))
    _limit_to_points(axes, rows, points)
    _label_points(axes, [str(row["policy"]) for row in rows], points)


def _limit_to_points(axes: Axes, rows: Sequence[Mapping[str, Any]], points: Points) -> None:
    """Show every point and its interval, but no interval wider than the points' own spread."""
    if not points:
        return
    values = np.array([y for _, y in points])
    most = max(6.0, values.max() - values.min())
    halves = np.array([min(most, 100 * (row.get("ci95") or 0.0)) for row in rows])
    low, high = float((values - halves).min()), float((values + halves).max())
    more = 0.08 * (high - low) + 0.2
    axes.set_ylim(max(0.0, low - more), min(101, high + more))


def _label_points(axes: Axes, names: Sequence[str], points: Points) -> None:
    """Write each name beside its point, where it covers no other name or point."""
    figure: Any = axes.get_figure()
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    taken: list[Edges] = [
        (x - 5, y - 5, x + 5, y + 5) for x, y in (axes.transData.transform(p) for p in points)
    ]
    for name, point in zip(names, points, strict=True):
        note = axes.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", fontsize=8, va="center",
            color=policy_color(name), fontweight="bold",
        )  # fmt: skip
        free = [(_crowding(_put(note, p, renderer), taken, axes), i) for i, p in enumerate(_PLACES)]
        taken.append(_put(note, _PLACES[min(free)[1]], renderer))


def _put(note: Any, place: Place, renderer: Any) -> Edges:
    """Move a name to a place beside its point; return its edges in pixels."""
    note.set(position=place[:2], ha=place[2])
    box = note.get_window_extent(renderer)
    return (box.x0, box.y0, box.x1, box.y1)


def _crowding(edges: Edges, taken: Sequence[Edges], axes: Axes) -> float:
    """Return what a name covers of others, and how far it sticks out of the axes."""
    box = axes.bbox
    gaps = (box.x0 - edges[0], edges[2] - box.x1, box.y0 - edges[1], edges[3] - box.y1)
    covered = 0.0
    for other in taken:
        width = min(edges[2], other[2]) - max(edges[0], other[0])
        height = min(edges[3], other[3]) - max(edges[1], other[1])
        covered += max(0.0, width) * max(0.0, height)
    return covered + 1000.0 * sum(max(0.0, float(gap)) for gap in gaps)
