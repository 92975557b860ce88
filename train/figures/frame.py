"""The frame that all plots share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.common.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["as_png", "draw_legend", "height_with_legend", "new_figure", "save_figure"]

_DPI = 130
_LEGEND_LINE = 0.215  # inches


def new_figure(
    width: float, height: float, columns: int = 1, width_ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """Return a figure and its axes, without matplotlib's global state.

    Args:
        width: In inches.
        height: In inches.
        columns: Axes beside one another.
        width_ratios: Their relative widths.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, width_ratios=width_ratios)
    for one in np.atleast_1d(axes):
        one.grid(visible=True, color="#e4e4e4", linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


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
