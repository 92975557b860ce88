"""What a `Selector` shows its policy: an observation that says what to do about what it lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import near_names

__all__ = [
    "HISTORY",
    "LEARNER_VIEWS",
    "VALIDATION",
    "NotShownError",
    "Shown",
    "checked_indices",
    "floats",
    "learner_views",
    "numbers",
    "refusals",
]

HISTORY = ("last_losses", "visited", "age", "train_loss", "mean_last_loss")
VALIDATION = ("validation_loss", "validation_accuracy")
LEARNER_VIEWS = {
    "learner_losses": (0.0, math.inf),
    "learner_margin": (0.0, 1.0),
    "learner_entropy": (0.0, 1.0),
    "learner_probabilities": (0.0, 1.0),
    "learner_embeddings": (-math.inf, math.inf),
}
"""What a policy may need of the learner, with the least and the highest value."""

TELL = (
    "call selector.observe_losses(indices[kept], losses) after each update, "
    "with empty lists if there was none"
)
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
    policy: str, *, labels: bool, history: bool, ahead: bool, validation: bool, noise: bool
) -> dict[str, str]:
    """Return what cannot be shown, with what to do about it.

    Args:
        policy: The policy's name.
        labels: Whether the labels are known.
        history: Whether the losses of all updates so far are known.
        ahead: Whether batches are selected ahead of training.
        validation: Whether a validation loss is known, or not needed.
        noise: Whether the gradient noise is known.
    """
    who = f"policy {policy!r} reads"
    refused = {}
    if not labels:
        refused["labels"] = f"labels: {who} them; pass labels= to Selector"
    if not history:
        mend = "it is not known ahead of training: call selector.select inside the loop"
        mend = mend if ahead else TELL
        refused |= {name: f"{name}: {who} it; {mend}" for name in HISTORY}
    if not validation:
        mend = "call selector.observe_validation(loss, accuracy) before select"
        refused |= {name: f"{name}: {who} it; {mend}" for name in VALIDATION}
    if not noise:
        mend = "call selector.observe_gradient_noise(samples) before select"
        refused["gradient_noise"] = f"gradient_noise: {who} it; {mend}"
    return refused


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
        if name not in LEARNER_VIEWS:
            hint = near_names(name, LEARNER_VIEWS)
            raise TypeError(f"select has no argument {name!r}; {hint}")
    views = {}
    for name in LEARNER_VIEWS:
        if name not in needs:
            continue
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
    wide = {"learner_probabilities": classes, "learner_embeddings": width}
    wanted: tuple[int, ...] = (n, wide[name]) if name in wide else (n,)
    shape = values.shape
    if shape == wanted or (name == "learner_embeddings" and not width and values.ndim == 2):
        wanted = shape
    if shape != wanted or len(shape) == 0 or shape[0] != n:
        text = str(wanted) if wanted[-1] else f"({n}, H)"
        raise ValueError(f"{name} must have {n} rows and the shape {text}, got shape {shape}")


def _check_values(name: str, values: npt.NDArray[Any]) -> None:
    low, high = LEARNER_VIEWS[name]
    wrong = ~np.isfinite(values) | (values < low - _ROUNDING) | (values > high + _ROUNDING)
    if wrong.any():
        bad = values[wrong][0]
        at = int(np.argwhere(wrong)[0][0])
        span = "finite" if low == -math.inf else f"finite and at least {low:g}"
        span = f"in [{low:g}, {high:g}]" if high < math.inf else span
        raise ValueError(f"{name} must be {span}, got {bad:g} at position {at} of the batch")
