"""The order of training: which samples the batch of each step holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Draws:
    """Batches of shuffled samples, epoch after epoch, as a pure function of (seed, step).

    Args:
        n: Number of training samples.
        batch_size: Samples of a drawn batch; the last of an epoch may hold fewer.
        seed: Seed of the order.

    Raises:
        ValueError: If the batch is larger than the data.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if batch_size > n:
            raise ValueError(
                f"batch_size must be at most the {n} training samples, got {batch_size}; "
                "lower --batch-size or raise --limit"
            )
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.steps_per_epoch = -(-n // batch_size)
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def epoch(self, step: int) -> int:
        """Return the epoch of a step."""
        return step // self.steps_per_epoch

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the order (n,) in which an epoch draws the samples."""
        return self._of(epoch).copy()

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """Return the sample indices (<= batch_size,) of a step."""
        order = self._of(self.epoch(step))
        start = (step % self.steps_per_epoch) * self.batch_size
        return order[start : start + self.batch_size].copy()

    def _of(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._order, self._epoch = generator.permutation(self.n), epoch
        return self._order
