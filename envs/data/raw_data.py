"""What every kind of data set is read into, and the checks that all kinds share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstds.envs.data.images import ImageSource

__all__ = ["Content", "check_labels", "crop_padding", "make_content"]


@dataclass(frozen=True)
class Content:
    """A data set as it was read, before any split.

    Attributes:
        source: The images.
        labels: Class (N,) of each, in 0..C-1.
        class_names: Names (C,).
        test_source: The images of the data's own test part, if there is one.
        test_labels: Their classes (M,).
        pad: Padding of the random crop that suits the data.
        flip: Whether a mirrored image means the same.
    """

    source: ImageSource
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    test_source: ImageSource | None
    test_labels: NDArray[np.int64] | None
    pad: int
    flip: bool


def crop_padding(shape: tuple[int, int, int]) -> int:
    """Return an eighth of the shorter side, at least one pixel."""
    return max(1, min(shape[1:]) // 8)


def make_content(
    where: str,
    source: ImageSource,
    labels: Any,
    test_source: ImageSource | None,
    test_labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    pad: int | None = None,
    flip: bool = False,
) -> Content:
    """Check labels and shapes and put the content together.

    Args:
        where: What messages call the data set.
        source: The images.
        labels: Whole numbers (N,) in 0..C-1, every class present.
        test_source: The images of the test part, or None.
        test_labels: Their classes (M,), or None.
        class_names: Names (C,); the numbers themselves by default.
        pad: Padding of the crop; an eighth of the shorter side by default.
        flip: Whether a mirrored image means the same.

    Raises:
        TypeError: If labels are not whole numbers.
        ValueError: If labels, names or shapes do not fit together.
    """
    checked = check_labels(f"{where}: y", labels, len(source))
    names = _names(where, checked, class_names)
    tested = None
    if test_source is not None:
        tested = check_labels(f"{where}: y_test", test_labels, len(test_source))
        _check_test(where, source, test_source, tested, names)
    padding = crop_padding(source.shape) if pad is None else pad
    return Content(source, checked, names, test_source, tested, padding, flip)


def check_labels(name: str, labels: Any, length: int) -> NDArray[np.int64]:
    """Return ``labels`` as int64 (N,) if there is one whole number of at least 0 for each image.

    Raises:
        TypeError: If they are no array of whole numbers.
        ValueError: If their shape, length or sign is wrong.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold whole numbers, got dtype {array.dtype}")
    if array.shape == (length, 1):  # a column, as MedMNIST and Keras' CIFAR have it
        array = array[:, 0]
    if array.shape != (length,):
        raise ValueError(
            f"{name} must have shape ({length},), one label for each image, got {array.shape}"
        )
    if length == 0:
        raise ValueError(f"{name} is empty: give at least two samples of two classes")
    if int(array.min()) < 0:
        raise ValueError(f"{name} must be in 0..C-1, got {int(array.min())}: number classes from 0")
    return array.astype(np.int64)


def _names(
    where: str, labels: NDArray[np.int64], class_names: Sequence[str] | None
) -> tuple[str, ...]:
    present = np.unique(labels)
    if class_names is None:
        names = [str(c) for c in range(len(present))]
    else:
        names = [str(name) for name in class_names]
    if len(present) < 2:
        raise ValueError(f"{where}: y holds one class, {present[0]}; at least two are needed")
    if present[-1] >= len(names) and class_names is not None:
        raise ValueError(f"{where}: y holds class {present[-1]}, class_names only {len(names)}")
    if len(present) != len(names) or present[-1] != len(names) - 1:
        missing = next(c for c, p in enumerate([*present, -1]) if c != p)
        raise ValueError(
            f"{where}: y has no sample of class {missing}; number the classes 0..C-1 without gaps"
        )
    return tuple(names)


def _check_test(
    where: str,
    source: ImageSource,
    test_source: ImageSource,
    test_labels: NDArray[np.int64],
    names: tuple[str, ...],
) -> None:
    if test_source.shape != source.shape:
        raise ValueError(
            f"{where}: X_test has images of shape (C, H, W) = {test_source.shape}, X of "
            f"{source.shape}; give both one shape"
        )
    if int(test_labels.max()) >= len(names):
        raise ValueError(
            f"{where}: y_test holds class {int(test_labels.max())}, but y ends at {len(names) - 1}"
        )
