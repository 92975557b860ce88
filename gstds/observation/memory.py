"""What each sample's last update left behind: losses that cost nothing, because training made them.

The environment and the drop-in keep the same memory, so that a policy sees the same in either.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_integer
from gstds.common.state import Stateful

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_UNIT = 149  # every float32 is a whole number of 2^-149: sums of those are exact, in any order


class SampleMemory(Stateful):
    """Remembers, for every training sample, its last loss and when it was trained on.

    Losses are kept as told, in whatever unit and of whatever sign. A sample whose loss was not
    finite is set aside until a finite one is told: it shows the least of its batch, so that it
    ranks last. (Where none of a batch is finite that is no sample's fault, and all keep what they
    had.) One that was never seen shows the mean of those that have a loss; before any, log C for a
    classification, else 0. A step takes the time of its batch, however many samples there are.

    Args:
        samples: Number of training samples n.
        classes: Number of classes C; 1 if it is no classification.

    Raises:
        TypeError: If a count is no whole number.
        ValueError: If a count is below 1.

    Attributes:
        last_losses: Learner loss (n,) when last trained on; 0 where none was told, or it is set
            aside.
        known: Whether a sample has such a loss (n,).
        last_trained: Progress (n,) when last trained on; -1 before.
        visits: How often each sample was trained on (n,).
        train_loss: Mean of the losses told last, as far as they are finite.
        train_loss_ratio: The same relative to those told first: 1 + (mean - first mean) / their
            mean size, which is mean / first mean where all are positive.
        set_aside: How many losses were not finite.
    """

    state: tuple[str, ...] = (
        "last_losses",
        "known",
        "last_trained",
        "visits",
        "train_loss",
        "train_loss_ratio",
    )
    state += ("set_aside", "_sum", "_count", "_first")

    def __init__(self, samples: int, classes: int) -> None:
        samples = check_integer("samples", samples, low=1)
        self._guess = math.log(check_integer("classes", classes, low=1))
        self.last_losses = np.zeros(samples, dtype=np.float32)
        self.known = np.zeros(samples, dtype=bool)
        self.last_trained = np.full(samples, -1.0, dtype=np.float64)
        self.visits: Indices = np.zeros(samples, dtype=np.int64)
        self.train_loss, self.train_loss_ratio = self._guess, 1.0
        self.set_aside = self._sum = self._count = 0
        self._first: list[float] = []

    def remember(self, indices: Indices, losses: npt.ArrayLike, progress: float) -> None:
        """Take up the losses (k,) of samples (k,) that were trained on at a progress in [0, 1].

        Of a sample that is there more than once the last finite loss counts.
        """
        told, indices = np.asarray(losses, dtype=np.float32), np.asarray(indices)
        self.last_trained[indices] = progress
        np.add.at(self.visits, indices, 1)
        finite = np.isfinite(told)
        self.set_aside += int((~finite).sum())
        values = told[finite].astype(np.float64)
        if not len(values):
            return
        each = np.append(indices[finite][::-1], indices[~finite])  # the first of a sample counts
        samples, at = np.unique(each, return_index=True)
        now, new = at < len(values), np.append(values[::-1], np.zeros(len(each) - len(values)))[at]
        self._sum += _exact(new) - _exact(self.last_losses[samples])  # 0 where none is known
        self._count += int(now.sum()) - int(self.known[samples].sum())
        self.last_losses[samples], self.known[samples] = new, now
        self.train_loss = float(values.mean())
        self._first = self._first or [self.train_loss, float(np.abs(values).mean()) or 1.0]
        first, size = self._first
        self.train_loss_ratio = 1.0 + (self.train_loss - first) / size

    @property
    def mean_last_loss(self) -> float:
        """Mean of the last losses of the samples that have one; before any, what they show."""
        return self._sum / (self._count << _UNIT) if self._count else self._guess

    def shown(self, batch: Indices) -> npt.NDArray[np.float32]:
        """Return the last losses of samples (n,): the mean for the unseen, the least set aside."""
        known, mean = self.known[batch], np.float32(self.mean_last_loss)
        losses = np.where(known, self.last_losses[batch], mean)
        aside = ~known & (self.visits[batch] > 0)
        if aside.any() and not aside.all():
            losses[aside] = losses[~aside].min()
        return losses

    def grow(self, samples: int) -> None:
        """Have room for more samples: the new ones have not been seen."""
        blank = SampleMemory(samples, 1)
        for name in ("last_losses", "known", "last_trained", "visits"):
            array = getattr(blank, name)
            array[: len(self.visits)] = getattr(self, name)
            setattr(self, name, array)

    def view(self, batch: Indices, progress: float) -> dict[str, Any]:
        """Return the observations that it has the values of, for a batch (n,) at a progress."""
        trained = self.last_trained[batch]
        return {
            "last_losses": self.shown(batch),
            "visited": self.visits[batch] > 0,
            "age": np.where(trained < 0, 1.0, progress - trained),
            "train_loss": self.train_loss,
            "train_loss_ratio": self.train_loss_ratio,
            "mean_last_loss": self.mean_last_loss,
        }


def _exact(losses: npt.NDArray[Any]) -> int:
    """Return the sum of float32 values in units of 2^-149, without rounding."""
    return sum(map(int, (losses.astype(np.float64) * 2.0**_UNIT).tolist()))
