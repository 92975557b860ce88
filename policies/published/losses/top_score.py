"""The highest of a score: fresh and stale losses, easy for the reference, unsure."""

from __future__ import annotations

from gstds.common.checks import check_choice
from gstds.policies.base import AnySchedule, KeepRatioPolicy


class BigLoss(KeepRatioPolicy):
    """The samples of the highest learner loss, fresh losses.

    Source: Online batch selection, arXiv 1511.06343; Ordered SGD, arXiv 1907.04371
    Cost: n·f for the learner's forward
    Helps: meant for clean data on which most samples are learned early
    Hurts: noisy labels: wrong labels have the highest losses

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    _score = "loss"

    def __init__(self, schedule: AnySchedule = None) -> None:
        super().__init__(schedule, "top-score", score=self._score)


class StaleBigLoss(BigLoss):
    """The samples of the highest loss at their last visit: no scoring forward.

    Samples that were never trained on come first, whatever the unit and sign of the losses.

    Source: Online batch selection, arXiv 1511.06343; Ordered SGD, arXiv 1907.04371
    Cost: nothing beside training on the kept samples
    Helps: as big-loss, and whenever a forward is dear
    Hurts: noisy labels; low keep ratios, where last losses are old

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    _score = "stale-loss"


class EasyReference(KeepRatioPolicy):
    """The samples of the lowest reference loss: high ones are often wrongly labeled.

    Source: easy-reference of JEST, arXiv 2406.17711
    Cost: nothing beside training on the kept samples; the reference's losses are cached
    Helps: meant for noisy labels at a moderate keep ratio
    Hurts: clean data: the hard samples are never seen

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    def __init__(self, schedule: AnySchedule = None) -> None:
        super().__init__(schedule, "top-score", score="easy-reference")


class Uncertainty(KeepRatioPolicy):
    """The samples on which the learner is least sure, whatever their label.

    Source: Margin and entropy sampling: Settles, Active Learning Literature Survey, 2009
    Cost: n·f for the learner's forward
    Helps: meant for late training, near the decision boundary; wrong labels do not attract it
    Hurts: early in training: nothing is sure; ambiguous samples come back for ever

    Args:
        schedule: Keep-ratio schedule.
        measure: ``margin``, between the two highest probabilities, or ``entropy``.

    Raises:
        ValueError: If an option is unknown.
    """

    def __init__(self, schedule: AnySchedule = None, measure: str = "margin") -> None:
        check_choice("measure", measure, ("margin", "entropy"))
        score = "uncertainty" if measure == "margin" else "entropy"
        super().__init__(schedule, "top-score", score=score)
