"""What was kept: the balance of classes over time, and the images kept most and least."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gstds.train.figures.frame import blank_figure, policy_color, save_figure
from gstds.train.figures.statistics import finished
from gstds.train.running.kept import Kept, read_kept
from gstds.train.running.options import policy_path

if TYPE_CHECKING:
    from gstds.envs.data.datasets import Data


Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
BINS = 20
_PER_ROW = 4
_MOST_CLASSES_NAMED = 20
_OCTAVES = 1.5


@dataclass(frozen=True)
class KeptView:
    """What one policy kept, over its seeds.

    Attributes:
        policy: Its name.
        balance: By stretch of the run and class (B, C): the class's share among the kept, over its
            share among the drawn; NaN where nothing was kept.
        share: How often each training sample was kept, over how often it was drawn (n,); NaN if it
            was never drawn.
        most: The samples kept most (k,), the most first.
        least: The samples kept least (k,), the least first.
    """

    policy: str
    balance: Floats
    share: Floats
    most: Indices
    least: Indices


def kept_path(folder: Path, run: Mapping[str, Any]) -> Path:
    """Return where a run of the comparison in ``folder`` has its record of what it kept."""
    name = f"{policy_path(str(run['policy']))}-{run['seed']}-{run.get('identity')}"
    return folder / "runs" / name / "kept.npz"


def view_of_kept(
    folder: Path, runs: Sequence[Mapping[str, Any]], data: Data, shown: int = 8
) -> list[KeptView]:
    """Return what each policy kept, in the order in which they appear.

    Runs that did not finish, whose record is missing, or that trained on other data than ``data``,
    are passed over.

    Args:
        folder: The comparison's folder.
        runs: Results of runs.
        data: What they trained on.
        shown: How many samples are picked at either end.
    """
    records: dict[str, list[Kept]] = {}
    for run in finished(runs):
        with contextlib.suppress(OSError):
            kept = read_kept(kept_path(folder, run))
            if len(kept.visits) == len(data.train):
                records.setdefault(str(run["policy"]), []).append(kept)
    return [_view(policy, kept, data, shown) for policy, kept in records.items()]


def _view(policy: str, kept: Sequence[Kept], data: Data, shown: int) -> KeptView:
    counts, by_class = zip(*(_count(record, data) for record in kept), strict=True)
    ours, drawn = np.sum(counts, axis=0)
    with np.errstate(invalid="ignore"):
        share = ours / np.where(drawn > 0, drawn, np.nan)
    balance = class_balance(*np.sum(by_class, axis=0))
    return KeptView(policy, balance, share, *most_and_least(share, shown))


def _count(record: Kept, data: Data) -> tuple[Indices, Indices]:
    """Count what was kept and drawn by sample (2, n), and by stretch and class (2, B, C)."""
    from gstds.envs.batches.order import Draws

    labels, classes = data.train.labels, data.num_classes
    steps, batch = record.masks.shape
    draws = Draws(len(labels), batch, record.order_seed)
    done = record.progress if record.progress is not None else np.arange(1, steps + 1) / steps
    stretch = np.minimum(BINS - 1, (np.concatenate([[0.0], done[:-1]]) * BINS).astype(np.int64))
    counts, by_class = np.zeros((2, len(labels)), np.int64), np.zeros((2, BINS, classes), np.int64)
    there = np.arange(batch) < record.sizes[:, None]  # the rest of a row is padding
    for first in range(0, steps, draws.steps_per_epoch):
        rows = slice(first, first + draws.steps_per_epoch)
        mask = record.masks[rows][there[rows]]
        order = draws.order(draws.epoch(first))[: len(mask)]
        stretches = np.repeat(stretch[rows], record.sizes[rows])
        for i, which in enumerate((mask, np.ones_like(mask))):
            counts[i, order] += which
            np.add.at(by_class[i], (stretches[which], labels[order][which]), 1)
    return counts, by_class


def class_balance(kept: npt.ArrayLike, drawn: npt.ArrayLike) -> Floats:
    """Return each class's share among the kept over its share among the drawn.

    Args:
        kept: Kept samples by stretch and class (B, C).
        drawn: Drawn samples likewise.

    Returns:
        (B, C); 1 is what random keep has, NaN where nothing was kept or drawn.
    """
    ours, whole = np.asarray(kept, dtype=np.float64), np.asarray(drawn, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (counts / counts.sum(axis=1, keepdims=True) for counts in (ours, whole))
        return np.asarray(np.divide(*shares), dtype=np.float64)


def most_and_least(share: Floats, count: int) -> tuple[Indices, Indices]:
    """Return the samples with the highest and the lowest shares (k,), each the extreme first.

    Ties are broken by a fixed shuffle: data sets are often sorted by class, and the first samples
    of a tie would all be of one.
    """
    known = np.flatnonzero(np.isfinite(share))
    known = known[np.random.default_rng(0).permutation(len(known))]
    rising = known[np.argsort(share[known], kind="stable")]
    count = min(count, len(rising) // 2)
    return rising[::-1][:count].astype(np.int64), rising[:count].astype(np.int64)


def plot_balance(views: Sequence[KeptView], class_names: Sequence[str], path: str | Path) -> None:
    """Draw, for each policy, each class's share among the kept over its share among the drawn.

    Args:
        views: One for each policy; at least one.
        class_names: Names (C,).
        path: The PNG to write.
    """
    columns, classes = min(_PER_ROW, len(views)), len(class_names)
    rows = -(-len(views) // columns)
    height = 1.1 + 0.16 * min(classes, _MOST_CLASSES_NAMED)
    figure = blank_figure(2.3 + 2.2 * columns, 0.5 + rows * height)
    every = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for first in every[:, 0]:
        if classes <= _MOST_CLASSES_NAMED:
            first.set_yticks(range(classes), [_short(n, 14) for n in class_names], fontsize=8)
        else:
            first.set_ylabel(f"{classes} classes")
    look = {"cmap": "RdBu_r", "vmin": -_OCTAVES, "vmax": _OCTAVES, "interpolation": "nearest"}
    look |= {"aspect": "auto", "extent": (0, 1, classes - 0.5, -0.5)}
    for view, axes in zip(views, every.flat, strict=False):
        with np.errstate(divide="ignore"):
            octaves = np.log2(view.balance.T)
        image = axes.imshow(np.clip(octaves, -_OCTAVES, _OCTAVES), **look)
        axes.set_title(view.policy, color=policy_color(view.policy), fontweight="bold", fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.set(xticks=[0, 0.5, 1], facecolor="#dddddd")
    for axes in every.flat[len(views) :]:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=every, shrink=0.9, ticks=[-1, 0, 1], pad=0.01)
    bar.ax.set_yticklabels(["half as\noften", "as drawn", "twice as\noften"], fontsize=8)
    figure.supxlabel("progress (share of the run)", fontsize=9)
    save_figure(figure, path)


def plot_extremes(views: Sequence[KeptView], data: Data, path: str | Path) -> None:
    """Draw the images that each policy kept most and least, with class and kept share.

    Args:
        views: One for each policy.
        data: What they trained on.
        path: The PNG to write.
    """
    shown = max(len(view.most) for view in views)
    figure = blank_figure(0.9 + 1.15 * shown, 0.35 + 0.88 * len(views))
    halves: Any = figure.subfigures(1, 2, wspace=0.03)
    for half, end in zip(halves, ("most", "least"), strict=True):
        half.suptitle(f"kept {end}", fontsize=10)
        for row, view in zip(half.subplots(len(views), shown, squeeze=False), views, strict=True):
            _draw_images(row, getattr(view, end), view, data)
            if end == "most":
                look = {"rotation": 0, "ha": "right", "va": "center", "fontweight": "bold"}
                look |= {"color": policy_color(view.policy), "fontsize": 9}
                row[0].set_ylabel(_short(view.policy, 18), **look)
    save_figure(figure, path)


def _draw_images(row: Any, samples: Indices, view: KeptView, data: Data) -> None:
    images = data.train.gather(samples).numpy()
    for axes in row:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for axes, sample, image in zip(row, samples, images, strict=False):
        pixels = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        label = _short(data.class_names[int(data.train.labels[sample])], 9)
        axes.set_xlabel(f"{label}\n{view.share[sample]:.0%}", fontsize=6.5, labelpad=1)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
