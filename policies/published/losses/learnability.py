"""Learner loss minus reference loss: JEST's draw and RHO-LOSS's top, fresh and stale."""

from __future__ import annotations

from gstds.policies.base import AnySchedule, KeepRatioPolicy


class Jest(KeepRatioPolicy):
    """JEST: samples drawn in chunks by the softmax of their learnability, fresh losses.

    JEST picks a batch jointly: the loss of a contrastive model couples samples. A per-example loss
    does not, so the joint term vanishes and what is left is learnability sampling: RHO-LOSS's score
    with a draw in place of the top.

    Source: JEST, arXiv 2406.17711; learnability: RHO-LOSS, arXiv 2206.07137
    Cost: n·f for the learner's forward; the reference's losses are cached
    Helps: meant for noisy or redundant data, a reference that generalizes, low keep ratios
    Hurts: clean data at a high keep ratio: the scoring forward costs more than it saves above 2/3

    Args:
        schedule: Keep-ratio schedule; the paper removes .8 and so keeps .2.
        chunks: Chunks of the draw.
        temperature: Of the softmax, in the unit of the losses.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    paper_schedule = ("constant", {"keep": 0.2})
    _score = "learnability"

    def __init__(
        self, schedule: AnySchedule = None, chunks: int = 16, temperature: float = 1.0
    ) -> None:
        options = {"score": self._score, "chunks": chunks, "temperature": temperature}
        super().__init__(schedule, "chunked", **options)


class StaleJest(Jest):
    """JEST on each sample's loss at its last visit: no scoring forward.

    Samples that were never trained on count as more learnable than all others of the batch.

    Source: JEST, arXiv 2406.17711; learnability: RHO-LOSS, arXiv 2206.07137
    Cost: nothing beside training on the kept samples; the reference's losses are cached
    Helps: as jest, and whenever a forward is dear: the losses come from training itself
    Hurts: few epochs, or a low keep ratio: last losses are then old

    Args:
        schedule: Keep-ratio schedule.
        chunks: Chunks of the draw.
        temperature: Of the softmax, in the unit of the losses.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    _score = "stale-learnability"


class RhoLoss(KeepRatioPolicy):
    """RHO-LOSS: the highest learner loss minus irreducible loss, fresh losses.

    The paper trains its irreducible-loss model on held-out data; here it is the cross-fitted probe
    on the frozen reference's features. The forward is in evaluation mode.

    Source: RHO-LOSS, arXiv 2206.07137
    Cost: n·f for the learner's forward; the reference's losses are cached
    Helps: meant for noisy labels and redundant data, with a reference that generalizes
    Hurts: a weak reference; no draw: the same hard samples come back each epoch

    Args:
        schedule: Keep-ratio schedule; the paper keeps 32 of 320.

    Raises:
        ValueError: If the schedule is unknown.
    """

    paper_schedule = ("constant", {"keep": 0.1})
    _score = "learnability"

    def __init__(self, schedule: AnySchedule = None) -> None:
        super().__init__(schedule, "top-score", score=self._score)


class StaleRhoLoss(RhoLoss):
    """RHO-LOSS on each sample's loss at its last visit: no scoring forward.

    Samples that were never trained on come first, those of low reference loss before the others.

    Source: RHO-LOSS, arXiv 2206.07137
    Cost: nothing beside training on the kept samples; the reference's losses are cached
    Helps: as rho-loss, and whenever a forward is dear
    Hurts: a sample once dropped keeps its old loss, so it may stay dropped: draw (stale-jest)

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    _score = "stale-learnability"
