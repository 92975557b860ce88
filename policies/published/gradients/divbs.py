"""DivBS: a subset whose last-layer gradients span the batch's."""

from __future__ import annotations

from gstds.policies.base import AnySchedule, KeepRatioPolicy


class DivBS(KeepRatioPolicy):
    """Diversified batch selection: drawn one by one by what adds to the last-layer gradients.

    That is the release's rule: odds in proportion to the inner product with what is left of the
    batch's gradient, the part orthogonal to the samples drawn before. The paper's algorithm takes
    the largest gain of unit vectors instead. Counts are rounded here, and cut there.

    Source: DivBS, arXiv 2406.04872; the release Feng-Hong/DivBS
    Cost: n·f for the learner's forward; 2·n²·(C + H) + 2·n·k² for the pick, k samples kept
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
