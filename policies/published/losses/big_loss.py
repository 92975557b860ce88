"""The highest learner losses, fresh and stale."""

from __future__ import annotations

from gstds.policies.base import KeepRatioPolicy
from gstds.selection.schedules import Schedule

__all__ = ["BigLoss", "StaleBigLoss"]


class BigLoss(KeepRatioPolicy):
    """The samples of the highest learner loss, fresh losses.

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    source = "Online batch selection, arXiv 1511.06343; Ordered SGD, arXiv 1907.04371"
    cost = "n·f for the learner's forward"
    helps = "meant for clean data on which most samples are learned early"
    hurts = "noisy labels: wrong labels have the highest losses"
    _score = "loss"

    def __init__(self, schedule: Schedule | str | None = None) -> None:
        super().__init__(schedule, "top-score", score=self._score)


class StaleBigLoss(BigLoss):
    """The samples of the highest loss at their last visit: no scoring forward.

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    cost = "nothing beside training on the kept samples"
    helps = "as big-loss, and whenever a forward is dear"
    hurts = "noisy labels; low keep ratios, where last losses are old"
    _score = "stale-loss"
