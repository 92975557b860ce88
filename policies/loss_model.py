"""What the learner's loss on a sample would be now, guessed from what is known for free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.validation import check_fraction, check_integer, check_number

__all__ = ["LossModel"]

Floats = npt.NDArray[np.floating[Any]]
_CAP = 5.0
_SCALARS = 5


class LossModel:
    """A ridge regression of the learner's loss, refitted after every update, that forgets.

    A last loss is stale, and says nothing of a sample never trained on. The model learns from each
    update how the losses that were seen then follow from class, reference loss and last loss; a
    guess for every other sample follows. It averages over what single losses hold of chance.

    Args:
        classes: Number of classes.
        forget: What is left of a sample's weight after one more sample, in (0, 1].
        penalty: The ridge's, in samples, above 0.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If one is out of range.
    """

    def __init__(self, classes: int, forget: float = 0.9995, penalty: float = 0.1) -> None:
        self.classes = check_integer("classes", classes, low=1)
        self.forget = check_fraction("forget", forget, open_low=True)
        self.penalty = check_number("penalty", penalty, low=0, open_low=True)
        size = self.classes + _SCALARS
        self._products: Floats = np.zeros((size, size))
        self._targets: Floats = np.zeros(size)
        self._weights: Floats = np.zeros(size)

    def predict(self, batch: Mapping[str, Any]) -> Floats:
        """Return the guessed losses (n,) in nats; zeros before the first `update`.

        Args:
            batch: ``labels``, ``reference_losses``, ``last_losses``, ``visited``, each (n,).
        """
        return np.asarray(np.clip(self._inputs(batch) @ self._weights, 0.0, 2 * _CAP))

    def update(self, batch: Mapping[str, Any], losses: npt.ArrayLike) -> None:
        """Learn from samples and the losses (n,) that training on them showed.

        Args:
            batch: As for `predict`, as it was before the training.
            losses: Learner losses (n,) in nats.
        """
        inputs = self._inputs(batch)
        seen = np.minimum(np.nan_to_num(np.asarray(losses, dtype=np.float64)), 2 * _CAP)
        kept = self.forget ** len(seen)
        self._products = kept * self._products + inputs.T @ inputs
        self._targets = kept * self._targets + inputs.T @ seen
        ridge = self.penalty * np.eye(len(self._targets))
        self._weights = np.asarray(np.linalg.solve(self._products + ridge, self._targets))

    def _inputs(self, batch: Mapping[str, Any]) -> Floats:
        label, reference, last, visited = (
            np.asarray(batch[name], dtype=np.float64)
            for name in ("labels", "reference_losses", "last_losses", "visited")
        )
        label = label.astype(np.int64)
        reference, last = np.clip(reference, 0.0, _CAP), np.clip(last, 0.0, _CAP)
        scalars = [reference, np.sqrt(reference), visited, visited * last, visited * np.sqrt(last)]
        return np.column_stack([label[:, None] == np.arange(self.classes), *scalars])

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned, as arrays."""
        return {
            "products": self._products.copy(),
            "targets": self._targets.copy(),
            "weights": self._weights.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        for name in ("products", "targets", "weights"):
            setattr(self, f"_{name}", np.array(state[name], dtype=np.float64))
