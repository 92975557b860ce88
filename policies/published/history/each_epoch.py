"""What methods share that choose an epoch's samples when it begins, by the losses last seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.noise import keyed_uniform
from gstds.policies.base import Observation, Policy, RunContext, Transition, Weights

Floats = npt.NDArray[np.floating[Any]]
_BLANK = (np.nan, -1.0, 1.0)  # last loss, label, weight of a sample that was never drawn
_EDGE = 1e-6  # progress arrives rounded


class EachEpoch(Policy):
    """Chooses the weights of all samples when an epoch begins; a subclass has `choose`.

    A release trains on what it chose in fewer batches of full size. Here what was not chosen is
    dropped from each drawn batch: the updates are as many as full training's and of fewer samples.
    A drawn batch that is larger by the share kept makes up for that. Each process, and each shard,
    chooses among the samples that it has drawn so far.
    """

    needs = {"indices": {}}  # noqa: RUF012  (a constant of the class)
    state: Any = ("_samples", "_steps", "_chosen")
    _refreshed = "last_losses"  # what is known of a drawn sample before it is trained on
    _by_class = False  # whether labels are read
    _seed, _per_epoch, _steps, _chosen = 0, 1, 0, -1
    _samples: Floats = np.empty((0, 3))

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run at the beginning of an epoch, with nothing known."""
        self._seed, self._per_epoch = seed, max(1, context.steps_per_epoch)
        self._steps, self._chosen = 0, -1
        self._samples = np.tile(_BLANK, (context.num_samples, 1))

    def choose(self, losses: Floats, epoch: int, progress: float) -> Floats:
        """Return the weight of each sample (n,) in an epoch; 0 leaves it out.

        Args:
            losses: Loss (n,) when last trained on, NaN of samples never seen.
            epoch: The epoch's number, from 0.
            progress: Share of the run done.
        """
        raise NotImplementedError

    def noise(self, epoch: int) -> Floats:
        """Return a uniform number (n,) of each sample, the epoch's own."""
        return keyed_uniform(self._seed, epoch, indices=np.arange(len(self._samples)))

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): those chosen when the epoch began."""
        indices = np.asarray(observation["indices"]).astype(np.int64)
        more = int(indices.max()) + 1 - len(self._samples)
        if more > 0:
            self._samples = np.vstack([self._samples, np.tile(_BLANK, (more, 1))])
        epoch = self._steps // self._per_epoch
        if epoch > self._chosen:
            progress, self._chosen = float(observation["progress"][0]), epoch
            self._samples[:, 2] = self.choose(self._samples[:, 0], epoch, progress)
        valid = np.asarray(observation["valid"]) > 0.5
        if self._by_class:
            self._samples[indices[valid], 1] = np.asarray(observation["labels"])[valid]
        known = valid & (np.asarray(observation["visited"]) > 0.5)
        self._samples[indices[known], 0] = np.asarray(observation[self._refreshed])[known]
        return np.where(valid, self._samples[indices, 2], 0.0).astype(np.float32)

    def learn(self, transition: Transition) -> None:
        """Take in the losses told."""
        self._steps += 1
        trained = np.asarray(transition.info["trained"]) > 0
        losses = np.asarray(transition.info["losses"])[trained]
        finite = np.isfinite(losses)
        if finite.any():  # what is not finite ranks last
            indices = np.asarray(transition.observation["indices"])[trained].astype(np.int64)
            self._samples[indices, 0] = np.where(finite, losses, losses[finite].min())


def annealed(epoch: int, progress: float, delta: float) -> bool:
    """Say whether an epoch that begins at a progress ends beyond ``delta``, as releases count."""
    return epoch > 0 and progress * (epoch + 1) / epoch > delta + _EDGE
