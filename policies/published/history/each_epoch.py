"""What methods share that choose an epoch's samples when it begins, by the losses last seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.noise import keyed_uniform
from gstds.policies.base import Observation, Policy, RunContext, Transition, Weights

Floats = npt.NDArray[np.floating[Any]]
_EDGE = 1e-6  # progress arrives rounded


class EachEpoch(Policy):
    """Chooses the weights of all samples when an epoch begins; a subclass has `choose`.

    A release trains on what it chose in fewer batches of full size. Here what was not chosen is
    dropped from each drawn batch: the updates are as many as full training's and of fewer samples.
    A drawn batch that is larger by the share kept makes up for that. Each process, and each shard,
    chooses among the samples that it has drawn so far.
    """

    needs = {"indices": {}}  # noqa: RUF012  (a constant of the class)
    state: Any = ("_losses", "_weights", "_steps", "_chosen")
    _refreshed = "last_losses"  # of samples that were not trained on

    def __init__(self) -> None:
        self._seed, self._per_epoch, self._steps, self._chosen = 0, 1, 0, -1
        self._losses, self._weights = np.empty(0), np.empty(0, np.float32)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run at the beginning of an epoch, with no loss known."""
        self._seed, self._per_epoch = seed, max(1, context.steps_per_epoch)
        self._steps, self._chosen = 0, -1
        self._losses = np.full(context.num_samples, np.nan)
        self._weights = np.ones(context.num_samples, np.float32)

    def choose(self, losses: Floats, epoch: int, progress: float) -> Floats:
        """Return the weight of each sample (n,) in an epoch; 0 leaves it out.

        Args:
            losses: Loss (n,) when last trained on, NaN of samples never seen.
            epoch: The epoch's number, from 0.
            progress: Share of the run done.
        """
        raise NotImplementedError

    def noise(self, epoch: int, stream: int = 0) -> Floats:
        """Return a uniform number (n,) of each sample, the epoch's own."""
        return keyed_uniform(self._seed, epoch, stream, indices=np.arange(len(self._losses)))

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): those chosen when the epoch began."""
        indices = np.asarray(observation["indices"]).astype(np.int64)
        more = int(indices.max(initial=-1)) + 1 - len(self._losses)
        if more > 0:
            self._losses = np.append(self._losses, np.full(more, np.nan))
            self._weights = np.append(self._weights, np.ones(more, np.float32))
        epoch = self._steps // self._per_epoch
        if epoch > self._chosen:
            chosen = self.choose(self._losses, epoch, float(observation["progress"][0]))
            self._weights, self._chosen = np.asarray(chosen, dtype=np.float32), epoch
        return np.where(np.asarray(observation["valid"]) > 0.5, self._weights[indices], 0)

    def learn(self, transition: Transition) -> None:
        """Take in the losses told, and those shown of samples that were not trained on."""
        seen, trained = transition.observation, np.asarray(transition.info["trained"]) > 0
        known = (np.asarray(seen["valid"]) > 0.5) & (trained | (np.asarray(seen["visited"]) > 0.5))
        losses = np.where(trained, transition.info["losses"], seen[self._refreshed])[known]
        finite = np.isfinite(losses)
        if finite.any():  # what is not finite ranks last
            indices = np.asarray(seen["indices"]).astype(np.int64)[known]
            self._losses[indices] = np.where(finite, losses, losses[finite].min())
        self._steps += 1


def annealed(epoch: int, progress: float, delta: float) -> bool:
    """Say whether an epoch that begins at a progress ends beyond ``delta``, as releases count."""
    return epoch > 0 and progress * (epoch + 1) / epoch > delta + _EDGE
