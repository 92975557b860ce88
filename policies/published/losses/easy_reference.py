"""What is easy for the reference."""

from __future__ import annotations

from gstds.policies.base import KeepRatioPolicy
from gstds.selection.schedules import Schedule

__all__ = ["EasyReference"]


class EasyReference(KeepRatioPolicy):
    """The samples of the lowest reference loss: high ones are often wrongly labeled.

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    source = "easy-reference of JEST, arXiv 2406.17711"
    cost = "nothing beside training on the kept samples; the reference's losses are cached"
    helps = "meant for noisy labels at a moderate keep ratio"
    hurts = "clean data: the hard samples are never seen"

    def __init__(self, schedule: Schedule | str | None = None) -> None:
        super().__init__(schedule, "top-score", score="easy-reference")
