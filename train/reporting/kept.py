"""What was kept: the balance of classes over time, and the images kept most and least."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gstds.train.figures.statistics import finished
from gstds.train.running.kept import Kept, read_kept
from gstds.train.running.options import policy_path

if TYPE_CHECKING:
    from gstds.envs.data.datasets import Data

__all__ = ["KeptView", "class_balance", "kept_path", "most_and_least", "view_of_kept"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
BINS = 20


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
    counts, by_class = np.zeros((2, len(labels)), np.int64), np.zeros((2, BINS * classes), np.int64)
    for first in range(0, steps, draws.steps_per_epoch):
        rows = slice(first, first + draws.steps_per_epoch)
        there = np.arange(batch) < record.sizes[rows][:, None]  # the rest of a row is padding
        mask = record.masks[rows][there]
        order = draws.order(draws.epoch(first))[: len(mask)]
        cells = np.repeat(stretch[rows], record.sizes[rows]) * classes + labels[order]
        for i, which in enumerate((mask, np.ones_like(mask))):
            counts[i, order] += which
            by_class[i] += np.bincount(cells[which], minlength=BINS * classes)
    return counts, by_class.reshape(2, BINS, classes)


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
