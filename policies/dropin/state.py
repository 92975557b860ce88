"""A selector's state in a form that any checkpoint takes, and its checks before it is taken up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import require_entries

__all__ = ["check_same_run", "note_losses", "portable", "restored"]

_TENSOR = "__tensor__"
_MEMORY = ("last_losses", "last_trained", "visits")


def portable(value: Any, where: str = "state") -> Any:
    """Return a deep copy with tensors in place of arrays, and Python's own numbers.

    ``torch.load`` takes it with ``weights_only=True``. A tensor of a policy's own is marked, so
    that `restored` tells it from an array.

    Args:
        value: Nested dicts, lists and tuples of arrays, tensors and JSON-able values.
        where: What it is called, for messages.

    Raises:
        TypeError: If something else is among them; the message says where.
    """
    import torch

    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        return {_TENSOR: value.detach().cpu().clone()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value, order="C"))
    if isinstance(value, Mapping):
        return {
            k.item() if isinstance(k, np.generic) else k: portable(v, f"{where}/{k}")
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        parts = [portable(part, f"{where}/{i}") for i, part in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    raise TypeError(
        f"{where} must be an array, a tensor or a JSON-able value, got {type(value).__name__}; "
        "state_dict must return nothing else"
    )


def restored(value: Any) -> Any:
    """Return a deep copy of what `portable` returned, with arrays in place of tensors again."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy().copy()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        if set(value) == {_TENSOR}:
            return value[_TENSOR].detach().clone()
        return {k: restored(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        parts = [restored(part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def check_same_run(state: Any, entries: Iterable[str], own: Mapping[str, Any]) -> None:
    """Refuse a state that is not of this run.

    Args:
        state: What was saved.
        entries: Names that it must have.
        own: Entries that must be these.

    Raises:
        TypeError: If it is no mapping.
        ValueError: If an entry is missing or another; the message names it.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be what state_dict returned, got {type(state).__name__}")
    require_entries(state, (*own, *entries))
    for name, value in own.items():
        if state[name] != value:
            raise ValueError(
                f"the state is of {name} {state[name]!r}, this selector of {value!r}; "
                "make it with the same arguments"
            )
    require_entries(state["memory"], (*_MEMORY, "train_loss"))
    for name in _MEMORY:
        shape = tuple(np.shape(state["memory"][name]))
        if shape != (own["num_samples"],):
            raise ValueError(
                f"the state's {name} must have shape ({own['num_samples']},), got {shape}"
            )


def note_losses(
    last: Mapping[str, Any], indices: npt.NDArray[np.int64], losses: npt.NDArray[np.float32]
) -> None:
    """Write down the losses (k,) of a step's samples (k,) in the step's record."""
    # An index may be drawn twice: of its places the kept ones are told first, each once.
    places = defaultdict(list)
    drawn = last["indices"]
    for at in np.argsort(last["weights"][: len(drawn)] <= 0, kind="stable"):
        places[int(drawn[at])].append(at)
    for index, loss in zip(indices.tolist(), losses, strict=True):
        if spots := places.get(index):
            at = spots.pop(0) if len(spots) > 1 else spots[0]
            last["losses"][at], last["trained"][at] = loss, 1.0
