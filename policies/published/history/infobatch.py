"""InfoBatch: drop some of what is learned, weigh the rest of it up."""

from __future__ import annotations

import numpy as np

from gstds.common.checks import check_fraction
from gstds.common.noise import derived_uniform
from gstds.policies.base import Observation, Policy, RunContext, Transition, Weights


class InfoBatch(Policy):
    """InfoBatch: of the samples whose last loss is below the mean, a share is dropped.

    The mean is that of the last losses, of the samples that have one, at the epoch's beginning, as
    every sample's own last loss is. Those of them that are kept weigh 1 / (1 - rate), and the loss
    is divided by the number drawn: for given last losses the expected update is that of the whole
    batch. Never-visited samples are always kept, so the first epoch is full; so is the end of
    training.

    Deviates from the authors' release: here each sample is dropped by a coin at each step, there
    an exact share at the beginning of each epoch, whose updates are then fewer and of full size.

    Source: InfoBatch, arXiv 2303.04947
    Cost: nothing beside training on the kept samples
    Helps: long runs on clean data, by its authors' results; no reference is needed
    Hurts: short runs: the first epoch and the last eighth are full, so little is saved

    Args:
        rate: Probability that a sample below the mean is dropped, in [0, 1).
        delta: Progress from which on everything is kept.

    Raises:
        ValueError: If an option is out of range.
    """

    state = ("_steps", "_mean")
    normalizer = "drawn"

    def __init__(self, rate: float = 0.5, delta: float = 0.875) -> None:
        self.rate = check_fraction("rate", rate, open_high=True)
        self.delta = check_fraction("delta", delta)
        self.max_weight = 1.0 / (1.0 - self.rate)
        self._steps, self._per_epoch, self._mean = 0, 1, 0.0

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run at the beginning of an epoch."""
        self._steps, self._per_epoch, self._mean = 0, max(1, context.steps_per_epoch), 0.0

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): 0 for the dropped, 1 / (1 - rate) for the kept below the mean."""
        weights = (np.asarray(observation["valid"]) > 0.5).astype(np.float32)
        if float(observation["progress"][0]) >= self.delta:
            return weights
        low = np.asarray(observation["last_losses"]) < self._threshold(observation)
        low &= (np.asarray(observation["visited"]) > 0.5) & (weights > 0)
        dropped = derived_uniform(observation["noise"], 0) < self.rate
        weights[low] = np.where(dropped[low], 0.0, self.max_weight)
        return weights

    def _threshold(self, observation: Observation) -> float:
        """Return the mean loss at the epoch's beginning, which may be now."""
        begins = self._steps % self._per_epoch == 0
        return float(observation["mean_last_loss"][0]) if begins else self._mean

    def learn(self, transition: Transition) -> None:
        """Count the step; the epoch's first tells the mean."""
        self._mean = self._threshold(transition.observation)
        self._steps += 1
