"""The frame that all plots share."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.common.files import write_bytes
from gstds.train.figures.palette import policy_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["as_png", "blank_figure", "draw_legend", "draw_mean", "height_with_legend", "new_figure"]
__all__ += ["save_figure"]

_DPI = 130
_LEGEND_LINE = 0.215  # inches


def blank_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches, without matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(
    width: float, height: float, columns: int = 1, width_ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """Return a figure and its axes.

    Args:
        width: In inches.
        height: In inches.
        columns: Axes beside one another.
        width_ratios: Their relative widths.
    """
    figure = blank_figure(width, height)
    axes = figure.subplots(1, columns, width_ratios=width_ratios)
    for one in np.atleast_1d(axes):
        one.grid(visible=True, color="#e4e4e4", linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_mean(axes: Axes, row: Mapping[str, Any], x: float | None = None, **more: Any) -> None:
    """Draw a row's mean accuracy in percent with its interval: at ``x``, or at a height ``y``."""
    mean, half = 100 * row["mean"], row.get("ci95")
    error = None if half is None else [100 * half]
    at: dict[str, Any] = {"x": [mean], "xerr": error} if x is None else {"y": [mean], "yerr": error}
    at |= {"y": [more.pop("y")]} if x is None else {"x": [x]}
    axes.errorbar(**at, fmt="o", color=policy_color(str(row["policy"])), **more)


def height_with_legend(height: float, entries: int) -> float:
    """Return a figure's height in inches, enough for a legend of so many lines."""
    return max(height, 0.7 + _LEGEND_LINE * entries)


def draw_legend(axes: Axes) -> None:
    """Put the legend to the right of the axes, if there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG, atomically."""
    write_bytes(path, as_png(figure))
