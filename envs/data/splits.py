"""Who is in which part, and the options that make selection matter.

The order is fixed: split, then ``limit``, ``imbalance``, ``duplicates`` and ``label_noise``, all on
the train part only. Reward-validation takes the same label noise, unless it is asked to stay clean;
selection-validation and test never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gstds.common.noise import fan_out
from gstds.envs.data.images import ImageSource
from gstds.options.world import DataOptions

Rows = NDArray[np.int64]
Random = np.random.Generator

# Exact whole-number arithmetic: quotas are kept in units of 2**-20 of a sample.
_UNIT = 1 << 20
_LEFT = 2
_SHARES = {"reward_validation": 0.05, "selection_validation": 0.05, "test": 0.2}


@dataclass(frozen=True)
class Split:
    """A part of a data set, with its images.

    Attributes:
        rows: Position (n,) of each sample in the source; a copy repeats a row.
        labels: Class (n,) of each sample, as training sees it.
        true_labels: Class (n,) before label noise.
        groups: Copies of one image share a group (n,).
        source: Where its images come from.
    """

    rows: Rows
    labels: Rows
    true_labels: Rows
    groups: Rows
    source: ImageSource

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: Rows) -> torch.Tensor:
        """Return the images of ``indices`` (k,), positions in the split, as uint8 (k, C, H, W)."""
        return self.source.gather(self.rows[indices])


def make_splits(
    source: ImageSource,
    labels: Rows,
    class_names: Sequence[str],
    options: DataOptions,
    test: tuple[ImageSource, Rows] | None = None,
) -> dict[str, Split]:
    """Split the samples and apply the options to the train part.

    Args:
        source: The images that are in no test part of the data's own.
        labels: Class (N,) of each.
        class_names: Names (C,) of the classes, for messages.
        options: The options, already checked for their ranges.
        test: Images and labels of the test part that the data brings, if it does: the rest is then
            split 90/5/5, otherwise 70/5/5/20.

    Returns:
        ``train``, ``reward_validation``, ``selection_validation`` and ``test``.

    Raises:
        ValueError: If a class has fewer than two samples, or an option leaves too few.
    """
    scarce = _scarce(labels, class_names)
    if scarce:
        raise ValueError(
            f"class {scarce[0]!r} has {scarce[1]} sample{'s' * (scarce[1] != 1)}; every class "
            f"needs at least {_LEFT}: add samples or leave the class out"
        )
    names = ("split", "limit", "imbalance", "duplicates", "train_noise", "validation_noise")
    seeds, classes = fan_out(options.split_seed, names), len(class_names)
    random = {name: np.random.default_rng(seed) for name, seed in seeds.items()}
    shares = {name: share for name, share in _SHARES.items() if not (test and name == "test")}
    rows = split_rows(labels, shares, random["split"])
    kept = rows["train"]
    if options.limit is not None:
        kept = limit_rows(kept, labels, options.limit, classes, random["limit"])
    kept = thin_rows(kept, labels, options.imbalance, classes, random["imbalance"])
    kept = repeat_rows(kept, labels, options.duplicates, random["duplicates"])

    def part(
        of: ImageSource, rows: Rows, labels: Rows, noise: float = 0.0, key: str = "split"
    ) -> Split:
        true = labels[rows]
        seen = noisy_labels(true, noise, classes, random[key]) if noise else true.copy()
        return Split(rows, seen, true, rows.copy(), of)

    train = part(source, kept, labels, options.label_noise, "train_noise")
    scarce = _scarce(np.unique(np.stack([train.labels, train.groups]), axis=1)[0], class_names)
    if scarce:
        raise ValueError(
            f"label_noise={options.label_noise} leaves class {scarce[0]!r} with {scarce[1]} "
            f"different sample{'s' * (scarce[1] != 1)} in train; it needs {_LEFT}: lower it or "
            "raise limit"
        )
    quiet = 0.0 if options.clean_validation else options.label_noise
    own = test or (source, labels)
    return {
        "train": train,
        "reward_validation": part(
            source, rows["reward_validation"], labels, quiet, "validation_noise"
        ),
        "selection_validation": part(source, rows["selection_validation"], labels),
        "test": part(own[0], rows.get("test", np.arange(len(own[1]))), own[1]),
    }


def _scarce(labels: Rows, class_names: Sequence[str]) -> tuple[str, int] | None:
    """Return the first class of fewer than two labels, and how many it has."""
    counts = np.bincount(labels, minlength=len(class_names)).tolist()
    named = zip(class_names, counts, strict=True)
    return next(((name, count) for name, count in named if count < _LEFT), None)


def split_rows(labels: Rows, shares: dict[str, float], random: Random) -> dict[str, Rows]:
    """Draw stratified parts without overlap; what is left is ``train``.

    Each part takes share × n_c of each class c to within one sample, at least one sample in all,
    and leaves two of every class to ``train``.

    Args:
        labels: Class (N,) of each sample.
        shares: Share of each part, in the order of drawing.
        random: Generator of the draw.

    Returns:
        Sorted positions of each part, by name.

    Raises:
        ValueError: If there are too few samples for every part to have one.
    """
    counts = np.bincount(labels)
    left = np.arange(len(labels), dtype=np.int64)
    parts = {}
    for name, share in shares.items():
        spare = np.maximum(np.bincount(labels[left], minlength=len(counts)) - _LEFT, 0)
        quota = np.minimum(np.rint(share * counts * _UNIT).astype(np.int64), spare * _UNIT)
        if not quota.any():
            raise ValueError(
                f"{len(labels)} samples of {np.count_nonzero(counts)} classes are too few to split "
                f"into train and {', '.join(shares)}, with two of each class in train: add samples"
            )
        parts[name] = stratified(left, labels, quota, random)
        left = np.setdiff1d(left, parts[name], assume_unique=True)
    parts["train"] = left
    return parts


def stratified(rows: Rows, labels: Rows, quota: Rows, random: Random) -> Rows:
    """Draw from each class its quota, rounded up or down; the total is the rounded sum.

    Systematic sampling: the classes are laid end to end in random order, each stretched to its
    quota, and one sample is taken at every whole step.

    Args:
        rows: Positions (n,) to draw from.
        labels: Class (N,) of every position.
        quota: Wanted number (C,) of each class in units of 2**-20, at most what it has.
        random: Generator of the draw.

    Returns:
        Sorted positions.
    """
    rank = random.permutation(len(quota))
    shuffled = random.permutation(rows)
    shuffled = shuffled[np.argsort(rank[labels[shuffled]], kind="stable")]
    of_class = labels[shuffled]
    count = np.bincount(of_class, minlength=len(quota))
    by_rank = np.argsort(rank)
    place = np.arange(len(shuffled)) - _starts(count, by_rank)[of_class]
    low = _starts(quota, by_rank)[of_class] + _phase(int(quota.sum()), random)
    high = low + quota[of_class] * (place + 1) // count[of_class]
    low += quota[of_class] * place // count[of_class]
    return np.sort(shuffled[high // _UNIT > low // _UNIT])


def _starts(sizes: Rows, order: Rows) -> Rows:
    """Return where each class begins if the classes are laid end to end in an order."""
    starts = np.empty_like(sizes)
    starts[order] = np.cumsum(sizes[order]) - sizes[order]
    return starts


def _phase(total: int, random: Random) -> int:
    """Draw a phase under which ``total`` units come out rounded, and never as none."""
    rest = total % _UNIT
    if 2 * rest >= _UNIT or total < _UNIT:
        return int(random.integers(_UNIT - rest, _UNIT)) if rest else 0
    return int(random.integers(0, _UNIT - rest))


def limit_rows(rows: Rows, labels: Rows, limit: int, classes: int, random: Random) -> Rows:
    """Return exactly ``limit`` of ``rows``, stratified, at least two of each class.

    Raises:
        ValueError: If there are fewer rows, or ``limit`` is under two for each class.
    """
    if not _LEFT * classes <= limit <= len(rows):
        raise ValueError(
            f"limit must be in [{_LEFT * classes}, {len(rows)}]: at least {_LEFT} for each of the "
            f"{classes} classes, at most the train part, got {limit}"
        )
    count = np.bincount(labels[rows], minlength=classes)
    return stratified(rows, labels, _floored_quota(count.astype(np.int64), limit), random)


def _floored_quota(count: Rows, total: int) -> Rows:
    """Share ``total`` out by ``count`` (C,) in units, raising each class to two samples."""
    low = np.zeros(len(count), dtype=bool)
    while True:
        free = total - _LEFT * int(low.sum())
        exact = np.where(low, float(_LEFT), free * count / max(1, count[~low].sum()))
        below = (exact < _LEFT) & ~low
        if not below.any():
            break
        low |= below
    quota = np.rint(exact * _UNIT).astype(np.int64)
    largest = int(np.argmax(quota))
    quota[largest] += total * _UNIT - int(quota.sum())
    capped: Rows = np.minimum(quota, count * _UNIT)
    return capped


def thin_rows(rows: Rows, labels: Rows, imbalance: float, classes: int, random: Random) -> Rows:
    """Keep the share (1 - imbalance) ** (c / (C - 1)) of class c, at least two samples.

    A long tail: class 0 stays whole and the last class keeps the share 1 - imbalance (Cui et al.,
    "Class-balanced loss based on effective number of samples", CVPR 2019).
    """
    if imbalance == 0.0:
        return rows
    kept = []
    for c in range(classes):
        mine = rows[labels[rows] == c]
        share = (1.0 - imbalance) ** (c / (classes - 1))
        count = max(_LEFT, int(np.floor(share * len(mine) + 0.5)))
        kept.append(random.permutation(mine)[:count])
    return np.sort(np.concatenate(kept))


def repeat_rows(rows: Rows, labels: Rows, duplicates: float, random: Random) -> Rows:
    """Replace the share ``duplicates`` of ``rows`` by copies of the others; the size stays.

    Two samples of each class are never replaced.

    Raises:
        ValueError: If the share is larger than that allows.
    """
    count = int(np.floor(duplicates * len(rows) + 0.5))
    if count == 0:
        return rows
    order = random.permutation(len(rows))
    movable = order[_place_in_class(labels[rows[order]]) >= _LEFT]
    if count > len(movable):
        raise ValueError(
            f"duplicates must be at most {len(movable) / len(rows):.4f} here, so that two "
            f"different samples of each class are left of {len(rows)}, got {duplicates}"
        )
    replaced = movable[:count]
    originals = np.setdiff1d(np.arange(len(rows)), replaced, assume_unique=True)
    repeated = rows.copy()
    repeated[replaced] = rows[random.choice(originals, size=count)]
    return repeated


def _place_in_class(labels: Rows) -> Rows:
    """Return how many of the same class stand before each place."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - _starts(counts, np.arange(len(counts)))[labels[order]]
    return place


def noisy_labels(labels: Rows, label_noise: float, classes: int, random: Random) -> Rows:
    """Give round(label_noise × n) of the samples another class, each other class as likely.

    Copies of one sample are separate samples here: one may be mislabeled and the other not.
    """
    count = int(np.floor(label_noise * len(labels) + 0.5))
    chosen = random.permutation(len(labels))[:count]
    noisy = labels.copy()
    noisy[chosen] = (labels[chosen] + random.integers(1, classes, size=count)) % classes
    return noisy
