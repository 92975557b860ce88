"""A data set by its name: images, labels and splits.

`load_data` reads it, splits it and applies the options, in this order: split, limit, imbalance,
duplicates, label noise. Everything is seeded by ``split_seed`` alone, never by a run's seed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gstds.common.checks import check_choice, near_names
from gstds.common.files import sha256
from gstds.envs.data.images import ArrayImages, FileImages, ImageSource, SequenceImages
from gstds.envs.data.named import SOURCES
from gstds.envs.data.readers import Content, read_folder, read_function, read_npz
from gstds.envs.data.splits import Split, make_splits
from gstds.options.fields import from_keywords, option
from gstds.options.world import DataOptions

_IS_THERE = {"folder": Path.is_dir, "npz": Path.is_file}
_FORMS = ("folder:PATH", "npz:PATH", "module:function")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CHUNK = 256
_MOST_CLASSES = 12


@dataclass(frozen=True)
class Data:
    """A data set, split and ready.

    Attributes:
        name: As it was asked for.
        num_classes: C.
        class_names: Names (C,).
        image_shape: (C, H, W).
        mean: Mean by channel of the train images in [0, 1]; a fixed one for images read lazily.
        std: Standard deviation likewise.
        pad: Padding of the random crop in pixels; 0 is no crop.
        flip: Whether images are mirrored at random.
        train: What is trained on.
        reward_validation: What a policy or a reward may see.
        selection_validation: What hyper-parameters are chosen on.
        test: What is looked at once, at the end.
        fingerprint: Digest of content, split and options.
        notes: What was passed over, or taken for something; sentences.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    train: Split
    reward_validation: Split
    selection_validation: Split
    test: Split
    fingerprint: str
    notes: tuple[str, ...] = ()


def load_data(name: str, **options: Any) -> Data:
    """Read a data set, split it and apply the options to its train part.

    Args:
        name: One of `dataset_names`, or ``folder:PATH``, ``npz:PATH``, ``module:function``.
        **options: Those of `gstds.options.world.DataOptions`: ``limit``, ``label_noise``,
            ``duplicates``, ``imbalance``, ``split_seed``, ``clean_validation``, ``augment`` and
            ``image_size``, see docs/options.md.

    Raises:
        FileNotFoundError: If the data are not there and cannot be fetched.
        OSError: If a file cannot be read.
        TypeError: If an argument or the data have a wrong type.
        ValueError: If an argument or the data are out of range.
    """
    if not isinstance(name, str):
        raise TypeError(f"dataset must be a name, got {name!r}")
    chosen = from_keywords(_LoadOptions, {"dataset": name, **options}, "load_data")
    content = _read(name, chosen.image_size)
    names = content.class_names
    splits = make_splits(content.source, content.labels, names, chosen, content.test)
    mean, std = _statistics(content.source, splits["train"].rows)
    pad = 0 if chosen.augment is False else content.pad
    flip = content.flip if chosen.augment is None else chosen.augment
    return Data(
        name=name,
        num_classes=len(names),
        class_names=names,
        image_shape=content.source.shape,
        mean=mean,
        std=std,
        pad=pad,
        flip=flip,
        **splits,
        fingerprint=_fingerprint(splits, pad, flip, len(names)),
        notes=content.notes,
    )


@dataclass(frozen=True, kw_only=True)
class _LoadOptions(DataOptions):
    """An environment's, but every label may be wrong."""

    label_noise: float = option(0.0, "share of wrong training labels", "[0, 1]")


def class_counts(data: Data) -> dict[str, int]:
    """Return how many training samples each class has, by name, as training sees the labels."""
    counts = np.bincount(data.train.labels, minlength=data.num_classes)
    return dict(zip(data.class_names, counts.tolist(), strict=True))


def describe(data: Data) -> str:
    """Say what was read: parts, classes with their counts, and what was passed over.

    Of more than twelve classes the first and the last stand there.
    """
    counts = [f"{name} {count}" for name, count in class_counts(data).items()]
    if len(counts) > _MOST_CLASSES:
        counts = [*counts[: _MOST_CLASSES - 3], "...", *counts[-2:]]
    sizes = [len(data.train), len(data.reward_validation) + len(data.selection_validation)]
    told = (
        f"data {data.name}: {sizes[0]} train, {sizes[1]} validation, {len(data.test)} test; "
        f"{data.num_classes} classes in train: {', '.join(counts)}"
    )
    return "; ".join([told, *data.notes])


def check_files(data: Data, progress: Callable[[str, int, int], None] | None = None) -> None:
    """Decode every image file of a data set once, before anything is trained on it.

    Of a user's own sequence 16 images are read.

    Args:
        data: The data set; one that is not read from image files has nothing to check.
        progress: Called with a phase, what is done, and the total.

    Raises:
        OSError: If a file is damaged; the message names it.
        ValueError: If a sequence shows nothing, or is another one when it is read again.
    """
    parts = (data.train, data.reward_validation, data.selection_validation, data.test)
    for source in {id(part.source): part.source for part in parts}.values():
        if isinstance(source, FileImages):
            told = functools.partial(progress, "checking images") if progress else None
            source.check(told)
        elif isinstance(source, SequenceImages):
            source.sample()


def names_code(name: Any) -> bool:
    """Return whether a data set is a user's ``module:function``, which reading it calls."""
    kind, colon, _ = str(name).partition(":")
    return bool(colon) and kind not in _IS_THERE


def dataset_names() -> dict[str, str]:
    """Return the names of the data sets and a line about each."""
    return {name: source.description for name, source in SOURCES.items()}


def fetch_data(name: str) -> Path | None:
    """Make sure that a named data set is on this machine.

    Returns:
        Its folder; None if it comes with a library.

    Raises:
        FileNotFoundError: If it cannot be fetched; the message names every way.
        ValueError: If the name is unknown.
    """
    return SOURCES[check_choice("dataset", name, SOURCES)].fetch()


def probe_data(name: str) -> str:
    """Say in a few words whether a data set can be had, without fetching or reading it.

    Raises:
        ValueError: If the name is unknown.
    """
    kind, _, path = name.partition(":")
    if kind in _IS_THERE and path:
        return "ready" if _IS_THERE[kind](Path(path).expanduser()) else "not found"
    return SOURCES[check_choice("dataset", name, SOURCES)].probe()


def advise_data(name: str) -> str:
    """Say what to do where a named data set cannot be had: the words of a run's own error.

    Raises:
        ValueError: If the name is unknown.
    """
    return SOURCES[check_choice("dataset", name, SOURCES)].advice()


def _read(name: str, image_size: int | None) -> Content:
    kind, colon, path = name.partition(":")
    from_files = kind == "folder" or (name in SOURCES and SOURCES[name].files)
    if image_size is not None and not from_files:
        raise ValueError(
            f"image_size={image_size} needs a data set of image files; {name!r} has a size "
            "of its own: leave the option out"
        )
    if name in SOURCES:
        return SOURCES[name].read(image_size)
    if not colon or not kind or not path:
        raise ValueError(f"dataset: unknown name {name!r}; {near_names(name, [*SOURCES, *_FORMS])}")
    if kind == "folder":
        return read_folder(path, image_size)
    return read_npz(path) if kind == "npz" else read_function(name)


def _statistics(
    source: ImageSource, rows: NDArray[np.int64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation by channel, by sums that are the same in every order.

    Whole numbers below 2**53 add up exactly in float64, so no thread count shows.
    """
    channels = source.shape[0]
    if not isinstance(source, ArrayImages):
        return _IMAGENET if channels == 3 else ((0.5,), (0.25,))
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    for at in range(0, len(rows), _CHUNK):
        images = source.gather(rows[at : at + _CHUNK]).to(torch.float64)
        total += images.sum(dim=(0, 2, 3))
        squares += images.square_().sum(dim=(0, 2, 3))
    count = len(rows) * source.shape[1] * source.shape[2]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(1.0).sqrt()
    return tuple((mean / 255.0).tolist()), tuple((deviation / 255.0).tolist())


def _fingerprint(splits: dict[str, Split], pad: int, flip: bool, classes: int) -> str:
    parts = (
        f"|{name}|{split.source.fingerprint}|{split.source.shape}|".encode()
        + split.rows.tobytes()
        + split.labels.tobytes()
        for name, split in splits.items()
    )
    return sha256(json.dumps([classes, pad, flip]), parts=parts)
