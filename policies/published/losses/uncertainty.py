"""Where the learner is least sure."""

from __future__ import annotations

from gstds.common.checks import check_choice
from gstds.policies.base import KeepRatioPolicy
from gstds.selection.schedules import Schedule

__all__ = ["Uncertainty"]


class Uncertainty(KeepRatioPolicy):
    """The samples on which the learner is least sure, whatever their label.

    Args:
        schedule: Keep-ratio schedule.
        measure: ``margin``, between the two highest probabilities, or ``entropy``.

    Raises:
        ValueError: If an option is unknown.
    """

    source = "Margin and entropy sampling: Settles, Active Learning Literature Survey, 2009"
    cost = "n·f for the learner's forward"
    helps = "meant for late training, near the decision boundary; wrong labels do not attract it"
    hurts = "early in training: nothing is sure; ambiguous samples come back for ever"

    def __init__(self, schedule: Schedule | str | None = None, measure: str = "margin") -> None:
        check_choice("measure", measure, ("margin", "entropy"))
        super().__init__(
            schedule, "top-score", score="uncertainty" if measure == "margin" else "entropy"
        )
