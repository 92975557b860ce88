"""What was kept: the balance of classes over time, and the images kept most and least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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
    for run in runs:
        kept = _read(kept_path(folder, run)) if run.get("status") == "finished" else None
        if kept is not None and len(kept.visits) == len(data.train):
            records.setdefault(str(run["policy"]), []).append(kept)
    labels = data.train.labels
    return [
        _view(policy, kept, labels, data.num_classes, shown) for policy, kept in records.items()
    ]


def _read(path: Path) -> Kept | None:
    try:
        return read_kept(path)
    except OSError:
        return None


def _view(policy: str, kept: Sequence[Kept], labels: Indices, classes: int, shown: int) -> KeptView:
    counts = [_count(record, labels, classes) for record in kept]
    balance = class_balance(
        sum(c.kept_classes for c in counts), sum(c.drawn_classes for c in counts)
    )
    drawn = sum(c.drawn for c in counts)
    with np.errstate(invalid="ignore"):
        share = sum(c.kept for c in counts) / np.where(drawn > 0, drawn, np.nan)
    most, least = most_and_least(share, shown)
    return KeptView(policy, balance, share, most, least)


@dataclass(frozen=True)
class _Counts:
    kept: Indices
    drawn: Indices
    kept_classes: Indices
    drawn_classes: Indices


def _count(record: Kept, labels: Indices, classes: int) -> _Counts:
    """Count by sample (n,), and by stretch and class (B, C), what was drawn and what was kept."""
    from gstds.envs.batches.order import Draws

    steps, batch = record.masks.shape
    draws = Draws(len(labels), batch, record.order_seed)
    done = record.progress if record.progress is not None else np.arange(1, steps + 1) / steps
    stretch = np.minimum(BINS - 1, (np.concatenate([[0.0], done[:-1]]) * BINS).astype(np.int64))
    kept, drawn = np.zeros((2, len(labels)), np.int64)
    by_class = np.zeros((2, BINS * classes), np.int64)
    for first in range(0, steps, draws.steps_per_epoch):
        rows = slice(first, first + draws.steps_per_epoch)
        mask = _drawn_only(record.masks[rows], record.sizes[rows])
        order = draws.order(draws.epoch(first))[: len(mask)]
        cells = np.repeat(stretch[rows], record.sizes[rows]) * classes + labels[order]
        kept[order] += mask
        drawn[order] += 1
        by_class[0] += np.bincount(cells[mask], minlength=BINS * classes)
        by_class[1] += np.bincount(cells, minlength=BINS * classes)
    kept_classes, drawn_classes = by_class.reshape(2, BINS, classes)
    return _Counts(kept, drawn, kept_classes, drawn_classes)


def _drawn_only(masks: npt.NDArray[np.bool_], sizes: Indices) -> npt.NDArray[np.bool_]:
    """Return the masks of an epoch's steps one after the other, without padding."""
    there = np.arange(masks.shape[1]) < sizes[:, None]
    flat: npt.NDArray[np.bool_] = masks[there]
    return flat


def class_balance(kept: npt.ArrayLike, drawn: npt.ArrayLike) -> Floats:
    """Return each class's share among the kept over its share among the drawn.

    Args:
        kept: Kept samples by stretch and class (B, C).
        drawn: Drawn samples likewise.

    Returns:
        (B, C); 1 is what random keep has, NaN where nothing was kept or drawn.
    """

    def shares(counts: npt.ArrayLike) -> Floats:
        values = np.asarray(counts, dtype=np.float64)
        total = values.sum(axis=1, keepdims=True)
        empty = np.full_like(values, np.nan)
        return np.asarray(np.divide(values, total, out=empty, where=total > 0), dtype=np.float64)

    ours, whole = shares(kept), shares(drawn)
    empty = np.full_like(ours, np.nan)
    ratio = np.divide(ours, whole, out=empty, where=whole > 0)
    return np.asarray(ratio, dtype=np.float64)


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
