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
from gstds.observation.spec import LOSS_BOUND

Indices = npt.NDArray[np.int64]


class SampleMemory(Stateful):
    """Remembers, for every training sample, its last loss and when it was trained on.

    Args:
        samples: Number of training samples n.
        classes: Number of classes C; log C stands in for losses not yet seen.

    Raises:
        TypeError: If a count is no whole number.
        ValueError: If a count is below 1.

    Attributes:
        last_losses: Learner loss (n,) in nats when last trained on; log C before.
        last_trained: Progress (n,) when last trained on; -1 before.
        visits: How often each sample was trained on (n,).
        train_loss: Mean loss of the samples last trained on.
    """

    state = ("last_losses", "last_trained", "visits", "train_loss")

    def __init__(self, samples: int, classes: int) -> None:
        samples = check_integer("samples", samples, low=1)
        unknown = math.log(check_integer("classes", classes, low=1))
        self.last_losses = np.full(samples, unknown, dtype=np.float32)
        self.last_trained = np.full(samples, -1.0, dtype=np.float64)
        self.visits: Indices = np.zeros(samples, dtype=np.int64)
        self.train_loss = unknown

    def remember(self, indices: Indices, losses: npt.ArrayLike, progress: float) -> None:
        """Take up the losses (k,) of samples (k,) that were trained on at a progress in [0, 1]."""
        values = np.asarray(losses, dtype=np.float32)
        finite = np.clip(np.nan_to_num(values, nan=LOSS_BOUND), 0.0, LOSS_BOUND)
        self.last_losses[indices] = finite
        self.last_trained[indices] = progress
        np.add.at(self.visits, indices, 1)
        self.train_loss = float(np.mean(values, dtype=np.float64))

    @property
    def mean_last_loss(self) -> float:
        """Mean of the last losses of all samples."""
        return float(np.mean(self.last_losses, dtype=np.float64))

    def view(self, batch: Indices, progress: float) -> dict[str, Any]:
        """Return the observations that it has the values of, for a batch (n,) at a progress."""
        trained = self.last_trained[batch]
        return {
            "last_losses": self.last_losses[batch],
            "visited": self.visits[batch] > 0,
            "age": np.where(trained < 0, 1.0, progress - trained),
            "train_loss": self.train_loss,
            "mean_last_loss": self.mean_last_loss,
        }
