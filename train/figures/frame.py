"""What all plots share: frame, mean with interval, legend, and one color per policy."""

from __future__ import annotations

import functools
import io
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import sha256, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_CONTROL = "random:"
SHORT_FULL = "short-full"
# The colors that MLflow's UI knows for runs and groups of runs.
RUN_COLORS = (
    "#a6630c", "#c83243", "#b45091", "#8a63bf", "#434a93", "#137dae", "#04867d", "#308613",
    "#facb66", "#1f272d", "#445461", "#5f7281", "#8396a5", "#93320b", "#be501e", "#de7921",
    "#f2be88", "#115026", "#277c43", "#3ba65e", "#8ddda8", "#9e102c", "#c82d4c", "#e65b77",
    "#f792a6", "#0e538b", "#2272b4", "#4299e0", "#8acaff",
)  # fmt: skip
_COLORED = RUN_COLORS[:9] + RUN_COLORS[13:]  # without the greys


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


def blank_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches, without matplotlib's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_mean(
    axes: Axes, row: Mapping[str, Any], x: float | None = None, y: float | None = None, **more: Any
) -> None:
    """Draw a row's mean accuracy in percent with its interval: at ``x``, or at a height ``y``."""
    mean, half = 100 * row["mean"], row.get("ci95")
    error = None if half is None else 100 * half
    at = {"x": mean, "y": y, "xerr": error} if x is None else {"x": x, "y": mean, "yerr": error}
    name = str(row["policy"])
    hollow = {"mfc": "white"} if is_control(name) else {}
    axes.errorbar(**at, fmt="o", color=policy_color(name), **hollow, **more)


def height_with_legend(height: float, entries: int) -> float:
    """Return a figure's height in inches, enough for a legend of so many lines."""
    return max(height, 0.7 + 0.215 * entries)


def draw_legend(axes: Axes) -> None:
    """Put the legend to the right of the axes, if there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG, atomically."""
    write_bytes(path, as_png(figure))


def is_control(name: str) -> bool:
    """Return whether a row is one that a comparison adds by itself."""
    return name.startswith(_CONTROL) or name == SHORT_FULL


def policy_color(name: str) -> str:
    """Return the color of a policy as ``#rrggbb``; unknown names get one from their digest.

    All are among `RUN_COLORS`, so that the UI can show them. Random samples with another policy's
    keep sequence have the paler shade of its color.
    """
    control = name.startswith(_CONTROL)
    name = name.removeprefix(_CONTROL)
    color = _palette()["policies"].get(name) or _COLORED[int(sha256(name), 16) % len(_COLORED)]
    if not control:
        return color
    paler = 0.5 * _parts(color) + 0.5 * 255
    others = (one for one in _COLORED if one != color)
    return min(others, key=lambda one: float(np.abs(_parts(one) - paler).sum()))


def _parts(color: str) -> npt.NDArray[np.float64]:
    return np.array(list(bytes.fromhex(color[1:])), dtype=float)


def phase_color(name: str) -> str:
    """Return the color of a phase of a run, such as ``train``, as ``#rrggbb``."""
    return _palette()["phases"].get(name) or policy_color(name)


@functools.cache
def _palette() -> dict[str, dict[str, str]]:
    text = Path(__file__).with_name("palette.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
