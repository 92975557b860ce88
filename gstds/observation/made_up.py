"""A batch that nobody drew: what a policy is asked about before any data is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.observation.spec import OBSERVATIONS, OPTIONAL_OBSERVATIONS, observation_bounds

Array = npt.NDArray[np.float32]
_LOSS = 3.0  # what stands for a large loss
_DIM, _WIDTH = 6, 5


class Noted(dict[str, Any]):
    """An observation that notes what is read of it.

    Args:
        values: What is shown.
        read: Names are added to it.
        hidden: What is not shown, and is given to whoever reads it all the same.

    Attributes:
        read: The names that were read.
    """

    def __init__(
        self, values: Any, read: set[str] | None = None, hidden: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(values)
        self.read = set() if read is None else read
        self._hidden = hidden or {}

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._hidden[name] if name in self._hidden else super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an observation, or the default; either way it was read."""
        self.read.add(name)
        return self._hidden.get(name, super().get(name, default))


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
    return {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}
