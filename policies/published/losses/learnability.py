"""Learner loss minus reference loss: JEST's draw and RHO-LOSS's top, fresh and stale."""

from __future__ import annotations

from gstds.policies.base import KeepRatioPolicy
from gstds.selection.schedules import Schedule

__all__ = ["Jest", "RhoLoss", "StaleJest", "StaleRhoLoss"]

_SCORING = "n·f for the learner's forward; the reference's losses are cached"
_STALE = "nothing beside training on the kept samples; the reference's losses are cached"


class Jest(KeepRatioPolicy):
    """JEST: samples drawn in chunks by the softmax of their learnability, fresh losses.

    JEST picks a batch jointly: the loss of a contrastive model couples samples. A per-example loss
    does not, so the joint term vanishes and what is left is learnability sampling: RHO-LOSS's score
    with a draw in place of the top.

    Args:
        schedule: Keep-ratio schedule; the paper removes .8 and so keeps .2.
        chunks: Chunks of the draw.
        temperature: Of the softmax, in nats.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    source = "JEST, arXiv 2406.17711; learnability: RHO-LOSS, arXiv 2206.07137"
    cost = _SCORING
    helps = "meant for noisy or redundant data, a reference that generalizes, low keep ratios"
    hurts = (
        "clean data at a high keep ratio: the scoring forward costs more than it saves above 2/3"
    )
    paper_schedule = ("constant", {"keep": 0.2})
    _score = "learnability"

    def __init__(
        self,
        schedule: Schedule | str | None = None,
        chunks: int = 16,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(
            schedule, "chunked", score=self._score, chunks=chunks, temperature=temperature
        )


class StaleJest(Jest):
    """JEST on each sample's loss at its last visit: no scoring forward.

    Args:
        schedule: Keep-ratio schedule.
        chunks: Chunks of the draw.
        temperature: Of the softmax, in nats.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    cost = _STALE
    helps = "as jest, and whenever a forward is dear: the losses come from training itself"
    hurts = "few epochs, or a low keep ratio: last losses are then old; unvisited count as log C"
    _score = "stale-learnability"


class RhoLoss(KeepRatioPolicy):
    """RHO-LOSS: the highest learner loss minus irreducible loss, fresh losses.

    The paper trains its irreducible-loss model on held-out data; here it is the cross-fitted probe
    on the frozen reference's features. The forward is in evaluation mode.

    Args:
        schedule: Keep-ratio schedule; the paper keeps 32 of 320.

    Raises:
        ValueError: If the schedule is unknown.
    """

    source = "RHO-LOSS, arXiv 2206.07137"
    cost = _SCORING
    helps = "meant for noisy labels and redundant data, with a reference that generalizes"
    hurts = "a weak reference; no draw: the same hard samples come back each epoch"
    paper_schedule = ("constant", {"keep": 0.1})
    _score = "learnability"

    def __init__(self, schedule: Schedule | str | None = None) -> None:
        super().__init__(schedule, "top-score", score=self._score)


class StaleRhoLoss(RhoLoss):
    """RHO-LOSS on each sample's loss at its last visit: no scoring forward.

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    cost = _STALE
    helps = "as rho-loss, and whenever a forward is dear"
    hurts = "a sample once dropped keeps its old loss, so it may stay dropped: draw (stale-jest)"
    _score = "stale-learnability"
