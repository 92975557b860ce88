"""A policy put together from a score, a picker, a schedule and a weighting."""

from __future__ import annotations

from typing import Any

import numpy as np

from gstds.common.checks import check_choice
from gstds.common.noise import derived_uniform
from gstds.policies.base import AnySchedule, KeepRatioPolicy, Observation, Weights
from gstds.selection.pickers import make_score
from gstds.selection.weights import keep_probabilities, percentiles, valid_batch

_LEAST_CHANCE = 0.01


class Custom(KeepRatioPolicy):
    """Any score, with any picker, schedule and weighting.

    Source: the ablations of GSTDS, arXiv 2507.04269
    Cost: that of the score and the picker
    Helps: to find which part of a method matters
    Hurts: nothing

    Args:
        schedule: Keep-ratio schedule.
        score: A name of `gstds.selection.pickers.SCORES`, or a sign rule of the Fiedler vector;
            None is the picker's own.
        picker: A name of `gstds.selection.pickers.PICKERS`.
        weighting: ``ones``: the loss is the kept samples' mean; ``drawn``: their sum over the
            number drawn, so that fewer samples make a smaller step; ``unbiased``, with picker
            ``bernoulli``: weights are one over the chance to be kept, which is at least .01, and
            the expected update is the whole batch's.
        **options: Options of the picker and of the score.

    Raises:
        ValueError: If a name or an option is unknown or out of range.
    """

    def __init__(
        self,
        schedule: AnySchedule = None,
        score: str | None = None,
        picker: str = "hybrid",
        weighting: str = "ones",
        **options: Any,
    ) -> None:
        if score is not None:
            options["score"] = score
        super().__init__(schedule, picker, **options)
        self.weighting = check_choice("weighting", weighting, ("ones", "drawn", "unbiased"))
        self.normalizer = "kept" if weighting == "ones" else "drawn"
        if weighting == "unbiased":
            if picker != "bernoulli":
                raise ValueError(
                    f"weighting 'unbiased' needs chances that are known, got picker {picker!r}; "
                    "use --picker bernoulli"
                )
            self.max_weight = 1.0 / _LEAST_CHANCE
            self._score = make_score(options.pop("score", "loss"), **options)

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,), 0 for the dropped."""
        if self.weighting != "unbiased":
            return super().act(observation)
        ratio = self.checked_ratio(observation)
        rows, batch = valid_batch(observation)
        weights = np.zeros(len(observation["valid"]), dtype=np.float32)
        scores = self._score(batch)
        chance = keep_probabilities(percentiles(scores, scores), ratio, floor=_LEAST_CHANCE)
        kept = derived_uniform(batch["noise"], 0) < chance
        weights[rows[kept]] = 1.0 / chance[kept]
        return weights
