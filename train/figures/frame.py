"""What all plots share: frame, mean with interval, legend, and one color per policy."""

from __future__ import annotations

import colorsys
import functools
import io
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.common.files import sha256, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_CONTROL = "random:"


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
    axes.errorbar(**at, fmt="o", color=policy_color(str(row["policy"])), **more)


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


def policy_color(name: str) -> str:
    """Return the color of a policy as ``#rrggbb``; unknown names get one from their digest.

    Random samples with another policy's keep sequence have a paler shade of its color.
    """
    if name.startswith(_CONTROL):
        color = bytes.fromhex(policy_color(name.removeprefix(_CONTROL))[1:])
        return _hex(0.5 * part + 0.5 * 235 for part in color)
    if name in _palette()["policies"]:
        return _palette()["policies"][name]
    digest = bytes.fromhex(sha256(name))
    hue = int.from_bytes(digest[:2], "big") / 65536
    rgb = colorsys.hls_to_rgb(hue, 0.35 + 0.2 * digest[2] / 255, 0.65)
    return _hex(255 * part for part in rgb)


def phase_color(name: str) -> str:
    """Return the color of a phase of a run, such as ``train``, as ``#rrggbb``."""
    return _palette()["phases"].get(name) or policy_color(name)


def _hex(parts: Iterable[float]) -> str:
    return "#" + bytes(map(round, parts)).hex()


@functools.cache
def _palette() -> dict[str, dict[str, str]]:
    text = Path(__file__).with_name("palette.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
