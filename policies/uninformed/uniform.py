"""The two controls: a uniform random share, and everything."""

from __future__ import annotations

import numpy as np

from gstds.policies.base import AnySchedule, KeepRatioPolicy, Observation, Policy, Weights


class Random(KeepRatioPolicy):
    """A uniform random share, fresh each step (RS2, arXiv 2305.18424): the baseline to beat.

    Source: RS2, arXiv 2305.18424
    Cost: nothing beside training on the kept samples
    Helps: as the control of every selector, at a learning rate of its own
    Hurts: noisy labels: it keeps as many of them as there are

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    def __init__(self, schedule: AnySchedule = None) -> None:
        super().__init__(schedule, "uniform")


class Full(Policy):
    """Everything: ordinary training.

    Source: ordinary training
    Cost: nothing beside training on all n samples
    Helps: when compute is no concern
    Hurts: when it is
    """

    def act(self, observation: Observation) -> Weights:
        """Return 1 for every sample of the batch (N,)."""
        return np.asarray(observation["valid"], dtype=np.float32).copy()
