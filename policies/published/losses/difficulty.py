"""Policy `difficulty`: neither what is learned nor what looks wrong, by the loss last seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_number
from gstds.policies.base import AnySchedule, KeepRatioPolicy, RunContext
from gstds.selection.pickers import NamedPicker
from gstds.selection.weights import check_cross_entropy, label_chances, weighted_sample

_FIRST = 1e300  # odds beyond all others


class Difficulty(KeepRatioPolicy):
    """Drawn with odds floor + p^a · (1 - p), p the label's probability when last trained on.

    p = exp(-last loss): the loss must be a classification's cross-entropy, in nats. With a = 0 the
    odds rise with the error alone; the larger a, the less is drawn what the learner finds unlikely,
    which under wrong labels is mostly wrong. Samples never trained on come before all others. No
    reference is read. How far to distrust (a), and how many samples to draw the kept from (the
    batch size by the keep ratio), differs between data sets: both are worth tuning.

    Source: this project; the error's odds are those of `best`, whose reference does without
    Cost: nothing beside training on the kept samples
    Helps: small budgets; a above 0 under wrong labels, whichever way they are wrong
    Hurts: a above 0 on clean data: hard samples are what is left to learn

    Args:
        schedule: Keep-ratio schedule.
        a: How much unlikely labels are distrusted, in [0, 100]; 0 not at all.
        floor: Odds that every sample has, at least 0.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    def __init__(self, schedule: AnySchedule = None, a: float = 0.5, floor: float = 0.1) -> None:
        super().__init__(schedule, "uniform")
        self.picker = NamedPicker(self._pick, "By difficulty.", reads=("last_losses", "visited"))
        self.a = check_number("a", a, low=0, high=100)
        self.floor = check_number("floor", floor, low=0, high=1e6)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run.

        Raises:
            ValueError: If it is no classification.
        """
        super().reset(seed, context)
        check_cross_entropy("difficulty", context.num_classes)

    def _pick(self, losses: Any, visited: Any, k: int, noise: Any) -> npt.NDArray[np.int64]:
        chance = label_chances(losses)
        odds = self.floor + chance**self.a * (1.0 - chance)
        return weighted_sample(np.where(visited > 0.5, odds, _FIRST), k, noise)
