"""What a policy reads: an observation that tells what it lacks; and one that nobody drew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import near_names
from gstds.observation.batch_view import padded_indices
from gstds.observation.spec import (
    LARGEST,
    OBSERVATIONS,
    OPTIONAL_OBSERVATIONS,
    WHOLE_NUMBERS,
    observation_bounds,
)

Array = npt.NDArray[np.float32]
_LOSS = 3.0  # what stands for a large loss
_DIM, _WIDTH = 6, 5


class NotDeclaredError(ValueError):
    """A policy reads what it does not declare; the message has the line to add."""


def needs_line(missing: Iterable[str]) -> str:
    """Return the line that declares observations, for messages."""
    return f"needs = { ({name: {} for name in missing}) }"


class Shown(dict[str, Array]):
    """An observation that says what to do about what it does not hold.

    Args:
        view: What there is.
        policy: The policy's name.
        refused: What cannot be shown, name -> what to say about it.
    """

    def __init__(
        self, view: Mapping[str, Array], policy: str, refused: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(view)
        self._policy, self._refused = policy, refused or {}

    def __getitem__(self, name: str) -> Array:
        if name in self._refused:
            raise ValueError(self._refused[name])
        if name in self:
            return super().__getitem__(name)
        if name not in OBSERVATIONS:
            raise NotDeclaredError(f"{name!r} is no observation; {near_names(name, OBSERVATIONS)}")
        asked = OBSERVATIONS[name].beside or name
        raise NotDeclaredError(
            f"{name}: policy {self._policy!r} reads it and does not declare it; add to the class: "
            f"{needs_line([asked])}"
        )

    def get(self, name: str, default: Any = None) -> Any:
        """Return an observation; the default for what is none. ``in`` asks whether it is shown.

        Raises:
            ValueError: If it is not declared or cannot be shown.
        """
        return self[name] if name in OBSERVATIONS else default


class Noted(Shown):
    """An observation that notes what is read of it.

    Args:
        values: What is shown.
        policy: The policy's name.
        read: Names are added to it.
        hidden: What is not shown, and is given to whoever reads it all the same.

    Attributes:
        read: The names that were read.
    """

    def __init__(self, values: Any, policy: str, read: Any = None, hidden: Any = None) -> None:
        super().__init__(values, policy)
        self.read = set() if read is None else read
        self._hidden = hidden or {}

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._hidden[name] if name in self._hidden else super().__getitem__(name)


def made_up_batch(
    n: int,
    classes: int,
    *,
    observe: Iterable[str] = OPTIONAL_OBSERVATIONS,
    seed: int = 0,
    valid: int | None = None,
    progress: float = 0.4,
) -> dict[str, Array]:
    """Return an observation of random numbers within the bounds of each.

    Args:
        n: N, the size of a drawn batch.
        classes: Number of classes C.
        observe: Optional observations that it holds; all, unless told.
        seed: Of the numbers.
        valid: Samples of the batch; the rest is padding.
        progress: Share of the run done.
    """
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {}
    for name, (low, high, shape) in observation_bounds(
        dict.fromkeys(observe), n, classes, _DIM, _WIDTH
    ).items():
        low, high = (0.0, _LOSS) if high == LARGEST else (low, high)
        top = min(high, _LOSS)
        values[name] = rng.uniform(max(low, -top), top, shape)
    values["labels"] = rng.integers(0, classes, n)
    values["valid"] = np.arange(n) < (n if valid is None else valid)
    values["visited"] = np.ones(n)
    values["noise"] = (rng.permutation(n) + 0.5) / n
    values["progress"], values["budget_left"] = [progress], [1 - progress]
    for name in values:
        if OBSERVATIONS[name].shape == ("N", "C"):
            values[name] = rng.dirichlet(np.ones(classes), n)
    if "features" in values:
        values["features"] = np.abs(values["features"])
        values["features"] /= np.linalg.norm(values["features"], axis=1, keepdims=True)
    if "indices" in values:
        values["indices"] = padded_indices(rng.permutation(10 * n)[: values["valid"].sum()], n)
    return {
        name: np.asarray(value, dtype=np.int64 if name in WHOLE_NUMBERS else np.float32)
        for name, value in values.items()
    }
