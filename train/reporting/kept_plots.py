"""Plots of what was kept: the balance of classes over time, and images kept most and least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.train.figures.frame import blank_figure, save_figure
from gstds.train.figures.palette import policy_color
from gstds.train.reporting.kept import KeptView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gstds.envs.data.datasets import Data

__all__ = ["plot_balance", "plot_extremes"]

_PER_ROW = 4
_MOST_CLASSES_NAMED = 20
_OCTAVES = 1.5


def plot_balance(views: Sequence[KeptView], class_names: Sequence[str], path: str | Path) -> None:
    """Draw, for each policy, each class's share among the kept over its share among the drawn.

    Args:
        views: One for each policy.
        class_names: Names (C,).
        path: The PNG to write.
    """
    columns = min(_PER_ROW, max(1, len(views)))
    rows = -(-max(1, len(views)) // columns)
    height = 1.1 + 0.16 * min(len(class_names), _MOST_CLASSES_NAMED)
    figure = blank_figure(2.3 + 2.2 * columns, 0.5 + rows * height)
    every = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    image = None
    for i, (view, axes) in enumerate(zip(views, every, strict=False)):
        with np.errstate(divide="ignore"):
            octaves = np.log2(view.balance.T)
        image = axes.imshow(
            np.clip(octaves, -_OCTAVES, _OCTAVES), aspect="auto", cmap="RdBu_r", vmin=-_OCTAVES,
            vmax=_OCTAVES, extent=(0, 1, len(class_names) - 0.5, -0.5), interpolation="nearest",
        )  # fmt: skip
        axes.set_title(view.policy, color=policy_color(view.policy), fontweight="bold", fontsize=9)
        _name_classes(axes, class_names if i % _PER_ROW == 0 else ())
        axes.set(xticks=[0, 0.5, 1], facecolor="#dddddd")
    for axes in every[len(views) :]:
        axes.set_axis_off()
    if image is not None:
        bar = figure.colorbar(image, ax=list(every), shrink=0.9, ticks=[-1, 0, 1], pad=0.01)
        bar.ax.set_yticklabels(["half as\noften", "as drawn", "twice as\noften"], fontsize=8)
    figure.supxlabel("progress (share of the run)", fontsize=9)
    save_figure(figure, path)


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    if 0 < len(names) <= _MOST_CLASSES_NAMED:
        axes.set_yticks(range(len(names)), [_short(name, 14) for name in names], fontsize=8)
    elif names:
        axes.set_ylabel(f"{len(names)} classes")
    axes.tick_params(axis="y", length=0)


def plot_extremes(views: Sequence[KeptView], data: Data, path: str | Path) -> None:
    """Draw the images that each policy kept most and least, with class and kept share.

    Args:
        views: One for each policy.
        data: What they trained on.
        path: The PNG to write.
    """
    shown = max((len(view.most) for view in views), default=1)
    figure = blank_figure(0.9 + 1.15 * shown, 0.35 + 0.88 * len(views))
    halves: Any = figure.subfigures(1, 2, wspace=0.03)
    for half, title in zip(halves, ("kept most", "kept least"), strict=True):
        half.suptitle(title, fontsize=10)
        every = half.subplots(len(views), shown, squeeze=False)
        for row, view in zip(every, views, strict=True):
            _draw_images(row, view.most if half is halves[0] else view.least, view, data)
            if half is halves[0]:
                row[0].set_ylabel(
                    _short(view.policy, 18), color=policy_color(view.policy), rotation=0,
                    ha="right", va="center", fontweight="bold", fontsize=9,
                )  # fmt: skip
    save_figure(figure, path)


def _draw_images(row: Any, samples: Any, view: KeptView, data: Data) -> None:
    images = data.train.gather(np.asarray(samples)).numpy()
    for axes in row:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for axes, sample, image in zip(row, samples, images, strict=False):
        pixels = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        label = _short(data.class_names[int(data.train.labels[sample])], 9)
        axes.set_xlabel(f"{label}\n{view.share[sample]:.0%}", fontsize=6.5, labelpad=1)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
