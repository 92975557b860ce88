"""DivBS: a subset whose last-layer gradients span the batch's."""

from __future__ import annotations

from gstds.policies.base import AnySchedule, KeepRatioPolicy


class DivBS(KeepRatioPolicy):
    """Diversified batch selection: greedy orthogonal pick on last-layer gradients.

    Deviates from the authors' release: here the sample of the largest normalized gain is taken,
    there one is drawn by a multinomial over the gains as they are.

    Source: DivBS, arXiv 2406.04872
    Cost: n·f for the learner's forward; 2·n²·(C + H + 1) + 2·n·k² for the pick, k samples kept
    Helps: meant for redundant batches at a low keep ratio
    Hurts: noisy labels: their gradients are large and unlike the others

    Args:
        schedule: Keep-ratio schedule; the paper keeps 32 of 320.

    Raises:
        ValueError: If the schedule is unknown.
    """

    paper_schedule = ("constant", {"keep": 0.1})

    def __init__(self, schedule: AnySchedule = None) -> None:
        super().__init__(schedule, "divbs")
