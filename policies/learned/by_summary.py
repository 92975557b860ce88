"""What every policy has in common that decides by the run's summary, every few drawn batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_integer
from gstds.observation.summary import RunFacts, Trend, summarize
from gstds.policies.base import KeepRatioPolicy, Observation, RunContext
from gstds.selection.pickers import RATIO_PICKERS

__all__ = ["SummaryPolicy"]

Array = npt.NDArray[np.float32]


class SummaryPolicy(KeepRatioPolicy):
    """Asks `decide` for a keep ratio every ``interval`` drawn batches, and keeps to it in between.

    Just what ``gstds/KeepRatio-v0`` does with an agent's actions, so that the same ratios give the
    same run in either.

    Args:
        interval: Drawn batches between decisions.
        picker: A name of `gstds.selection.pickers.RATIO_PICKERS`.
        observe: Further optional observations that the summary is to hold, name -> options.

    Attributes:
        drawn: Batches drawn so far.

    Raises:
        TypeError: If the interval is no whole number.
        ValueError: If it is below 1 or the picker is unknown.
    """

    state: tuple[str, ...] = ("drawn", "_ratio", "_trend")

    def __init__(
        self,
        interval: int = 4,
        picker: str = "hybrid",
        observe: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.interval = check_integer("interval", interval, low=1)
        rule = RATIO_PICKERS[check_choice("picker", picker, RATIO_PICKERS)]
        self.picker = replace(rule, needs={**rule.needs, **(observe or {})})
        self._start_over()

    def _start_over(self) -> None:
        self.drawn, self._ratio = 0, 1.0
        self._trend: Sequence[float] | None = None
        self._facts = RunFacts(2, 1.0)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run."""
        super().reset(seed, context)
        self._start_over()
        self._facts = RunFacts.from_context(asdict(context))

    def decide(self, summary: Array) -> float:
        """Return the keep ratio in [0, 1] for the next drawn batches, from the summary (S,)."""
        raise NotImplementedError(f"{type(self).__name__} must define decide(summary)")

    def keep_ratio(self, observation: Observation) -> float:
        """Return the ratio decided on; at every ``interval``-th batch, decide."""
        if self.drawn % self.interval == 0:
            summary = summarize(observation, self._facts, self._trend)
            self._trend = Trend.of(observation)
            self._ratio = self.decide(summary)
        self.drawn += 1
        return self._ratio
