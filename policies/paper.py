"""GSTDS, the baseline: Guided Spectrally Tuned Data Selection (arXiv 2507.04269)."""

from __future__ import annotations

import math

from gstds.common.checks import check_choice
from gstds.policies.base import AnySchedule, KeepRatioPolicy, Observation, RunContext


class GSTDS(KeepRatioPolicy):
    """Half by Fiedler score, half by reference loss, on a sigmoid schedule: the paper's method.

    The paper leaves open the score's sign, the Laplacian and the direction of the loss weight: the
    options below. The defaults are one reading; in three seeds, which claim
    nothing, others had higher means (docs/results/policies.md).

    Source: GSTDS, arXiv 2507.04269
    Cost: the spectral solve: n²·D + 4/3·n³ up to 320 samples, above that 8·n·D an iteration; no
        forward, cached features and losses
    Helps: nothing seen here; meant for batches with redundant bulk, a reference that generalizes
    Hurts: outliers: the unnormalized Fiedler vector is nearly an indicator of the worst of them

    Args:
        schedule: Keep-ratio schedule; the paper's sigmoid from .18 to .88.
        score: ``abs`` of the Fiedler vector, ``skew`` (sign such that Σv³ > 0) or ``raw``.
        laplacian: ``unnormalized`` or ``normalized``.
        affinity: What happens to negative cosines: ``auto``, ``shift``, ``clamp``, ``error``.
        embedding: ``laplacian`` or ``random-walk``.
        solver: ``auto``, ``dense`` or ``matrix-free``.
        loss_weighting: ``inverse`` (1/loss), ``proportional`` or ``uniform``.
        score_share: Share of the kept samples that is taken by score.
        per: The schedule moves per ``step`` or per ``epoch``.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    paper_schedule = ("sigmoid", {})

    def __init__(
        self,
        schedule: AnySchedule = None,
        score: str = "abs",
        laplacian: str = "unnormalized",
        affinity: str = "auto",
        embedding: str = "laplacian",
        solver: str = "auto",
        loss_weighting: str = "inverse",
        score_share: float = 0.5,
        per: str = "step",
    ) -> None:
        check_choice("score", score, ("abs", "skew", "raw"))
        scoring = {"laplacian": laplacian, "affinity": affinity, "embedding": embedding}
        picking = {"loss_weighting": loss_weighting, "score_share": score_share, "solver": solver}
        super().__init__(schedule, "hybrid", score=score, **scoring, **picking)
        self.per = check_choice("per", per, ("step", "epoch"))
        self._epochs = 1

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run; the number of epochs is the grid of ``per="epoch"``."""
        super().reset(seed, context)
        self._epochs = context.epochs if self.per == "epoch" else 1

    def schedule_progress(self, observation: Observation) -> float:
        """Return the run's progress, or that of the epoch's beginning."""
        progress = super().schedule_progress(observation)
        if self.per == "step":
            return progress
        return min(self._epochs - 1, math.floor(progress * self._epochs + 1e-6)) / self._epochs
