"""Who is in which part, and the options that make selection matter.

The order is fixed: split, then ``limit``, ``imbalance``, ``duplicates`` and ``label_noise``, all on
the train part only. Reward-validation takes the same label noise, unless it is asked to stay clean;
selection-validation and test never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gstds.common.noise import fan_out
from gstds.options.world import DataOptions

__all__ = ["Part", "Parts", "make_parts", "plain_part"]

Rows = NDArray[np.int64]

# Exact whole-number arithmetic: quotas are kept in units of 2**-20 of a sample.
_UNIT = 1 << 20
_LEFT = 2
_WITH_TEST = {"reward_validation": 0.05, "selection_validation": 0.05}
_WITHOUT_TEST = {"reward_validation": 0.05, "selection_validation": 0.05, "test": 0.2}


@dataclass(frozen=True)
class Part:
    """Rows (n,) of a source, their labels, the labels before noise, and their groups."""

    rows: Rows
    labels: Rows
    true_labels: Rows
    groups: Rows


@dataclass(frozen=True)
class Parts:
    """The parts of a split; ``test`` is None if the data brought a test part."""

    train: Part
    reward_validation: Part
    selection_validation: Part
    test: Part | None


def make_parts(
    labels: Rows, class_names: Sequence[str], options: DataOptions, *, has_test: bool
) -> Parts:
    """Split the samples and apply the options to the train part.

    Args:
        labels: Class (N,) of each sample that is not in a test part of the data's own.
        class_names: Names (C,) of the classes, for messages.
        options: The options, already checked for their ranges.
        has_test: Whether the data brings a test part: 90/5/5, otherwise 70/5/5/20.

    Returns:
        The parts; the rows are positions in ``labels``.

    Raises:
        ValueError: If a class has fewer than two samples, or an option leaves too few.
    """
    _check_classes(labels, class_names)
    names = ("split", "limit", "imbalance", "duplicates", "train_noise", "validation_noise")
    seeds = fan_out(options.split_seed, names)
    random = {name: np.random.default_rng(seeds[name]) for name in names}
    rows = split_rows(labels, _WITH_TEST if has_test else _WITHOUT_TEST, random["split"])
    kept = rows["train"]
    if options.limit is not None:
        kept = limit_rows(kept, labels, options.limit, len(class_names), random["limit"])
    kept = thin_rows(kept, labels, options.imbalance, len(class_names), random["imbalance"])
    kept = repeat_rows(kept, labels, options.duplicates, random["duplicates"])
    noise = options.label_noise
    train = _part(kept, labels, noise, len(class_names), random["train_noise"])
    _check_groups(train, class_names, noise)
    quiet = 0.0 if options.clean_validation else noise
    reward = rows["reward_validation"]
    return Parts(
        train,
        _part(reward, labels, quiet, len(class_names), random["validation_noise"]),
        plain_part(rows["selection_validation"], labels),
        None if has_test else plain_part(rows["test"], labels),
    )


def plain_part(rows: Rows, labels: Rows) -> Part:
    """Return the part of ``rows`` (n,) with its labels as they are."""
    return Part(rows, labels[rows], labels[rows], rows.copy())


def split_rows(
    labels: Rows, shares: dict[str, float], random: np.random.Generator
) -> dict[str, Rows]:
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


def stratified(rows: Rows, labels: Rows, quota: Rows, random: np.random.Generator) -> Rows:
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
    start = np.empty_like(quota)
    start[by_rank] = np.cumsum(quota[by_rank]) - quota[by_rank]
    first = np.empty_like(count)
    first[by_rank] = np.cumsum(count[by_rank]) - count[by_rank]
    place = np.arange(len(shuffled)) - first[of_class]
    phase = _phase(int(quota.sum()), random)
    low = start[of_class] + quota[of_class] * place // count[of_class] + phase
    high = start[of_class] + quota[of_class] * (place + 1) // count[of_class] + phase
    return np.sort(shuffled[high // _UNIT > low // _UNIT])


def _phase(total: int, random: np.random.Generator) -> int:
    """Draw a phase under which ``total`` units come out rounded, and never as none."""
    rest = total % _UNIT
    if 2 * rest >= _UNIT or total < _UNIT:
        return int(random.integers(_UNIT - rest, _UNIT)) if rest else 0
    return int(random.integers(0, _UNIT - rest))


def limit_rows(
    rows: Rows, labels: Rows, limit: int, classes: int, random: np.random.Generator
) -> Rows:
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


def thin_rows(
    rows: Rows, labels: Rows, imbalance: float, classes: int, random: np.random.Generator
) -> Rows:
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


def repeat_rows(rows: Rows, labels: Rows, duplicates: float, random: np.random.Generator) -> Rows:
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
    count = np.bincount(labels)
    first = np.cumsum(count) - count
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - first[labels[order]]
    return place


def noisy_labels(
    labels: Rows, label_noise: float, classes: int, random: np.random.Generator
) -> Rows:
    """Give round(label_noise × n) of the samples another class, each other class as likely.

    Copies of one sample are separate samples here: one may be mislabeled and the other not.
    """
    count = int(np.floor(label_noise * len(labels) + 0.5))
    chosen = random.permutation(len(labels))[:count]
    noisy = labels.copy()
    noisy[chosen] = (labels[chosen] + random.integers(1, classes, size=count)) % classes
    return noisy


def _part(
    rows: Rows, labels: Rows, label_noise: float, classes: int, random: np.random.Generator
) -> Part:
    true_labels = labels[rows]
    noisy = noisy_labels(true_labels, label_noise, classes, random)
    return Part(rows, noisy, true_labels, rows.copy())


def _check_classes(labels: Rows, class_names: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(class_names)).tolist()
    for name, count in zip(class_names, counts, strict=True):
        if count < _LEFT:
            raise ValueError(
                f"class {name!r} has {count} sample{'s' * (count != 1)}; every class needs at "
                f"least {_LEFT}: add samples or leave the class out"
            )


def _check_groups(train: Part, class_names: Sequence[str], label_noise: float) -> None:
    pairs = np.unique(np.stack([train.labels, train.groups]), axis=1)
    groups = np.bincount(pairs[0], minlength=len(class_names)).tolist()
    for name, count in zip(class_names, groups, strict=True):
        if count < _LEFT:
            raise ValueError(
                f"label_noise={label_noise} leaves class {name!r} with {count} different "
                f"sample{'s' * (count != 1)} in train; it needs {_LEFT}: lower it or raise limit"
            )
