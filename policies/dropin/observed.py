"""What a `Selector` shows its policy, is told and hands over: arrays, checked and copied."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.data

from gstds.common.checks import near_names
from gstds.common.state import Stateful
from gstds.observation.batch_view import numbers
from gstds.observation.spec import LARGEST, OBSERVATIONS, OPTIONAL_OBSERVATIONS, asked_of

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
_IN_WORKER = (
    "is called in a DataLoader's worker, on a copy of the selector that nobody else sees; call it "
    "in the training loop, or pass batch_sampler=SelectionSampler(selector, batches)"
)
_AHEAD = "it; it is not known ahead of training: call selector.select inside the loop"
_LEARNER = asked_of(OPTIONAL_OBSERVATIONS, "learner")
_FEW, _SURELY = 0.01, 5.0
_ROUNDING = 0.01  # half precision may say 1.004 where it means 1


def refusals(
    view: Mapping[str, Any], policy: str, lacking: Mapping[str, bool], *, ahead: bool
) -> dict[str, str]:
    """Return what cannot be shown, with what to do about it.

    Args:
        view: What there is.
        policy: The policy's name.
        lacking: Whether the values of a source, such as ``memory``, are not known.
        ahead: Whether batches are selected ahead of training.
    """
    mends = _MENDS | ({"memory": _AHEAD} if ahead else {})
    sources = {name: OBSERVATIONS[name].source for name in view}
    return {
        name: f"{name}: policy {policy!r} reads {mends[source]}"
        for name, source in sources.items()
        if lacking.get(source)
    }


def eager(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have a method called outside what ``torch.compile`` compiles, as a step around it may be.

    And outside of inference mode, whose tensors no gradient could go through; and in no worker.
    """

    @functools.wraps(method)
    def called(*arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():  # what it imports takes seconds: only where it is needed
            disable: Callable[..., Any] = torch.compiler.disable
            return disable(called)(*arguments, **options)
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError(f"{method.__name__} {_IN_WORKER}")
        with torch.inference_mode(False):
            return method(*arguments, **options)

    return called


def per_sample(name: str, values: Any, n: int) -> npt.NDArray[np.float32]:
    """Return one loss for each of n samples (n,) as float32, those not finite included.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If the shape is another; the message says how to reduce it.
    """
    array = np.atleast_1d(floats(name, values))
    if array.shape == (n,):
        return array
    mend = "compute them with reduction='none'"
    if array.ndim > 1 and len(array) == n:
        mend = f"reduce each sample's: {name}.flatten(1).mean(1)"
        mend += ", or its sum if that is what you train on" if array.shape[1:] != (1,) else ""
    elif array.ndim == 2 and array.shape[1] == n:
        mend = f"reduce each sample's, which stand in a column: {name}.mean(0)"
    elif array.ndim == 1 and 1 < len(array) < n:
        mend = "pass the indices of the samples that they are of, indices[kept] after training"
    elif n and array.ndim == 1 and len(array) > n and len(array) % n == 0:
        mend = f"reduce each sample's {len(array) // n}: {name}.view({n}, -1).mean(1) where they "
        mend += f"stand together, {name}.view(-1, {n}).mean(0) where the samples come anew"
    raise ValueError(
        f"{name} must be one number for each of the {n} indices, got shape {np.shape(values)}; "
        f"{mend}"
    )


class DrawnIndices(Stateful):
    """Which samples were ever drawn, to tell of those that never will be.

    Args:
        samples: Number of training samples n.
    """

    state = ("drawn", "_since_new")

    def __init__(self, samples: int) -> None:
        self.drawn = np.zeros(samples, dtype=bool)
        self._since_new = 0

    def take(self, batch: npt.NDArray[np.int64]) -> None:
        """Take in a drawn batch (n,)."""
        new = np.flatnonzero(~self.drawn[batch])
        since = int(new[-1]) + 1 if len(new) else -self._since_new
        self._since_new = len(batch) - since
        self.drawn[batch] = True

    def grow(self, samples: int) -> None:
        """Have room for more samples, not drawn yet."""
        self.drawn = np.concatenate([self.drawn, np.zeros(samples - len(self.drawn), bool)])

    def never(self) -> int:
        """Return how many samples will never be drawn, by all appearance; 0 if a few are late.

        Draws with replacement meet a new sample now and then, an epoch that drops its last batch
        meets it in the next: here five times as many draws as that takes have met none.
        """
        missing = int((~self.drawn).sum())
        share = missing / len(self.drawn)
        return missing if share > _FEW and share * self._since_new > _SURELY else 0


def floats(name: str, values: Any) -> npt.NDArray[np.float32]:
    """Return numbers as float32; what is finite stays finite, at its bounds.

    Raises:
        TypeError: If they are something else.
    """
    array = numbers(values)
    if array.dtype.kind not in "fiub" and array.size:
        raise TypeError(f"{name} must be numbers, got {array.dtype}")
    told = array
    if array.dtype == np.float64:
        told = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    kept = told.astype(np.float32)
    if kept.size and kept.min() == kept.max() and array.min() < array.max():
        text = "that float32, in which they are kept, does not tell apart; multiply them, or "
        warnings.warn(f"{name} differ by so little {text}subtract what they share", stacklevel=5)
    return kept


def whole_numbers(
    name: str, values: Any, mend: str = "", *, kinds: str = "iub", empty: bool = False
) -> npt.NDArray[np.int64]:
    """Return whole numbers (n,), none below 0.

    Args:
        name: What they are called.
        values: Any kind of array.
        mend: What to do about another shape or type.
        kinds: Kinds of numpy's types that are taken.
        empty: Whether there may be none; then a number is an array of one.

    Raises:
        TypeError: If they are no whole numbers.
        ValueError: If the shape is another, or one is below 0.
    """
    array = np.atleast_1d(numbers(values)) if empty else numbers(values)
    if array.ndim != 1 or not (len(array) or empty):
        wanted = "(n,)" if empty else "(n,), n > 0"
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}{mend}")
    if len(array) and array.dtype.kind not in kinds:
        raise TypeError(
            f"{name} must be whole numbers, got {array.dtype} such as {array[0]!s}{mend}"
        )
    if len(array) and array.min() < 0:
        at = int(np.argmin(array))
        raise ValueError(f"{name} must be at least 0, got {array[at]} at position {at}")
    return array.astype(np.int64)


def learner_views(
    policy: str, needs: Mapping[str, Any], given: Mapping[str, Any], sizes: Mapping[str, int]
) -> dict[str, npt.NDArray[Any]]:
    """Return what a policy needs of the learner, checked.

    Args:
        policy: The policy's name.
        needs: Its needs.
        given: What `Selector.select` was given, by name.
        sizes: N samples of the batch, C classes, H the embeddings' width; 0 before the first.

    Raises:
        TypeError: If there is no view of a name.
        ValueError: If one is missing, or has another shape, or a value that it cannot have.
    """
    for name in given:
        if name not in _LEARNER:
            raise TypeError(f"select has no argument {name!r}; {near_names(name, _LEARNER)}")
    views = {}
    for name in asked_of(needs, "learner"):
        if given.get(name) is None:
            raise ValueError(
                f"{name}: policy {policy!r} needs it; call "
                f"selector.select(indices, {name}=...) with the learner's on this batch"
            )
        # Of losses what is not finite is set aside, as it is after training.
        losses = per_sample(name, given[name], sizes["N"]) if name == "learner_losses" else None
        views[name] = _checked(name, given[name], sizes) if losses is None else losses
    return views


def _checked(name: str, told: Any, sizes: Mapping[str, int]) -> npt.NDArray[np.float32]:
    values = floats(name, told)
    row, shape, n = OBSERVATIONS[name], values.shape, sizes["N"]
    wanted = tuple(sizes[str(size)] for size in row.shape)
    if not wanted[-1] and len(shape) == 2:  # the first say how wide they are
        wanted = (n, shape[1])
    if shape != wanted:
        text = str(wanted) if wanted[-1] else f"({n}, H)"
        raise ValueError(f"{name} must have {n} rows and the shape {text}, got shape {shape}")
    low, high = row.low, row.high if row.high == 1 else math.inf
    if high == math.inf:  # it is a bound that they are clipped to
        low = -math.inf
    wrong = ~np.isfinite(values) | (values < low - _ROUNDING) | (values > high + _ROUNDING)
    if wrong.any():
        bad, at = values[wrong][0], int(np.argwhere(wrong)[0][0])
        span = f"in [{low:g}, {high:g}]" if high == 1 else "finite"
        raise ValueError(f"{name} must be {span}, got {bad:g} at position {at} of the batch")
    return values
