"""The end of an equal budget: its last remainder, too small to pay for another batch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gstds.envs.batches.order import Draws
from gstds.envs.selection.trainer import Trainer
from gstds.observation.batch_view import step_noise
from gstds.selection.weights import uniform

__all__ = ["spend_remainder"]

_TINY = 1e-9


def spend_remainder(
    left: float,
    sample_flops: float,
    draws: Draws,
    trainer: Trainer,
    *,
    step: int,
    seed: int,
    least: int,
) -> tuple[npt.NDArray[np.int64], int]:
    """Train, unscored, on as many uniformly drawn samples as the remainder pays for.

    Args:
        left: Operations that may still be spent.
        sample_flops: Operations of a forward and backward of one sample.
        draws: Which samples the batches hold.
        trainer: Trains; samples that it carries are paid for first.
        step: Number of the next drawn batch.
        seed: Seed of the selection's noise.
        least: Samples that an update needs.

    Returns:
        The samples (n,), and the number of the next drawn batch.
    """
    count = math.floor(left / sample_flops + _TINY) - len(trainer.carried)
    closing = [np.empty(0, dtype=np.int64)]
    while count > 0:
        batch = draws.batch(step)
        take = min(count, len(batch))
        if take + len(trainer.carried) < least:
            break
        chosen = batch[uniform(take, step_noise(seed, step, batch))]
        weights = np.ones(take, dtype=np.float32)
        trainer.update(chosen, weights, step=step, epoch=draws.epoch(step), normalizer=take)
        closing.append(chosen)
        count -= take
        step += 1
    return np.concatenate(closing), step
