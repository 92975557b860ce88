"""What a `Selector` shows its policy: an observation that says what to do about what it lacks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import near_names
from gstds.observation.spec import OBSERVATIONS, OPTIONAL_OBSERVATIONS, asked_of

__all__ = [
    "TELL",
    "NotShownError",
    "Shown",
    "checked_indices",
    "floats",
    "learner_views",
    "numbers",
    "refusals",
]

TELL = (
    "call selector.observe_losses(indices[kept], losses) after each update, "
    "with empty lists if there was none"
)
_MENDS = {
    "data": "them; pass labels= to Selector",
    "memory": f"it; {TELL}",
    "evaluation": "it; call selector.observe_validation(loss, accuracy) before select",
    "gradients": "it; call selector.observe_gradient_noise(samples) before select",
}
_AHEAD = "it; it is not known ahead of training: call selector.select inside the loop"
_LEARNER = asked_of(OPTIONAL_OBSERVATIONS, "learner")
_ROUNDING = 0.01  # half precision may say 1.004 where it means 1


class NotShownError(ValueError):
    """A policy read what the loop did not tell; the message says how to tell it."""


class Shown(dict[str, npt.NDArray[np.float32]]):
    """An observation that says what to do about what it cannot show."""

    refused: dict[str, str] = {}  # noqa: RUF012  (replaced, never changed)

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        if name in self.refused:
            raise NotShownError(self.refused[name])
        if name not in self:
            hint = near_names(name, self)
            raise KeyError(
                f"{name!r} is not shown: a policy declares what it reads in `needs`; {hint}"
            )
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an observation, or the default where a policy did not ask for it.

        Raises:
            NotShownError: If the loop did not tell it.
        """
        return self[name] if name in self or name in self.refused else default


def refusals(
    policy: str, shown: Iterable[str], lacking: Mapping[str, bool], *, ahead: bool
) -> dict[str, str]:
    """Return what cannot be shown, with what to do about it.

    Args:
        policy: The policy's name.
        shown: What it may read.
        lacking: Whether the values of a source, such as ``memory``, are not known.
        ahead: Whether batches are selected ahead of training.
    """
    mends = _MENDS | ({"memory": _AHEAD} if ahead else {})
    sources = {name: OBSERVATIONS[name].source for name in shown}
    return {
        name: f"{name}: policy {policy!r} reads {mends[source]}"
        for name, source in sources.items()
        if lacking.get(source)
    }


def numbers(values: Any) -> npt.NDArray[Any]:
    """Return an array of whatever holds numbers, tensors on any device included."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu() if values.is_floating_point() else values.cpu()
    return np.asarray(values)


def floats(name: str, values: Any) -> npt.NDArray[np.float32]:
    """Return numbers as float32.

    Raises:
        TypeError: If they are something else.
    """
    array = numbers(values)
    if array.dtype.kind not in "fiub" and array.size:
        raise TypeError(f"{name} must be numbers, got {array.dtype}")
    return array.astype(np.float32)


def checked_indices(
    indices: Any, samples: int, *, allow_empty: bool = False
) -> npt.NDArray[np.int64]:
    """Return indices (n,) of training samples.

    Args:
        indices: Indices, of any kind of array.
        samples: Number of training samples.
        allow_empty: Whether there may be none; then a number is one index.

    Raises:
        TypeError: If they are no whole numbers.
        ValueError: If the shape is another, or one lies outside the data.
    """
    batch = numbers(indices)
    if allow_empty:  # of a numpy array, one kept sample comes as a number
        batch = np.atleast_1d(batch)
    if batch.ndim != 1 or (len(batch) == 0 and not allow_empty):
        wanted = "(n,)" if allow_empty else "(n,), n > 0"
        raise ValueError(f"indices must have shape {wanted}, got {batch.shape}")
    if len(batch) and batch.dtype.kind not in "iu":
        raise TypeError(f"indices must be whole numbers, got {batch.dtype}")
    if len(batch) and (batch.min() < 0 or batch.max() >= samples):
        raise ValueError(
            f"indices must lie in [0, {samples - 1}], got {batch.min()} to {batch.max()};"
            " the store, the labels or num_samples must cover all training samples"
        )
    return batch.astype(np.int64)


def learner_views(
    policy: str,
    needs: Mapping[str, Any],
    given: Mapping[str, Any],
    n: int,
    classes: int,
    width: int,
) -> dict[str, npt.NDArray[Any]]:
    """Return what a policy needs of the learner, checked.

    Args:
        policy: The policy's name.
        needs: Its needs.
        given: What `Selector.select` was given, by name.
        n: Samples of the batch.
        classes: Number of classes.
        width: Width of the embeddings so far; 0 before the first.

    Raises:
        TypeError: If there is no view of a name.
        ValueError: If one is missing, or has another shape, or a value that it cannot have.
    """
    for name in given:
        if name not in _LEARNER:
            hint = near_names(name, _LEARNER)
            raise TypeError(f"select has no argument {name!r}; {hint}")
    views = {}
    for name in asked_of(needs, "learner"):
        if given.get(name) is None:
            raise ValueError(
                f"{name}: policy {policy!r} needs it; call "
                f"selector.select(indices, {name}=...) with the learner's on this batch"
            )
        views[name] = floats(name, given[name])
        _check_shape(name, views[name], n, classes, width)
        _check_values(name, views[name])
    return views


def _check_shape(name: str, values: npt.NDArray[Any], n: int, classes: int, width: int) -> None:
    sizes: dict[Any, int] = {"N": n, "C": classes, "H": width}
    wanted = tuple(sizes[size] for size in OBSERVATIONS[name].shape)
    shape = values.shape
    if not wanted[-1] and values.ndim == 2:  # the first say how wide they are
        wanted = shape
    if shape != wanted or len(shape) == 0 or shape[0] != n:
        text = str(wanted) if wanted[-1] else f"({n}, H)"
        raise ValueError(f"{name} must have {n} rows and the shape {text}, got shape {shape}")


def _check_values(name: str, values: npt.NDArray[Any]) -> None:
    row = OBSERVATIONS[name]  # beyond ±1 it is a bound that they are clipped to
    low = row.low if row.low >= -1 else -math.inf
    high = row.high if row.high == 1 else math.inf
    wrong = ~np.isfinite(values) | (values < low - _ROUNDING) | (values > high + _ROUNDING)
    if wrong.any():
        bad = values[wrong][0]
        at = int(np.argwhere(wrong)[0][0])
        span = "finite" if low == -math.inf else f"finite and at least {low:g}"
        span = f"in [{low:g}, {high:g}]" if high < math.inf else span
        raise ValueError(f"{name} must be {span}, got {bad:g} at position {at} of the batch")
