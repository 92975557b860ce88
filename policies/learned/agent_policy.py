"""Policies that decide by the run's summary, every few drawn batches: agents, models, sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gstds.common.checks import check_choice, check_integer
from gstds.observation.summary import RunFacts, Trend, summarize
from gstds.policies.base import Array, KeepRatioPolicy, Observation, RunContext
from gstds.policies.learned.agent_file import Actor, load_agent
from gstds.selection.pickers import RATIO_PICKERS


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
    drawn, _ratio = 0, 1.0
    _trend: Sequence[float] | None = None
    _facts = RunFacts(2, 1.0)

    def __init__(
        self,
        interval: int = 4,
        picker: str = "hybrid",
        observe: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.interval = check_integer("interval", interval, low=1)
        rule = RATIO_PICKERS[check_choice("picker", picker, RATIO_PICKERS)]
        self.picker = replace(rule, needs={**rule.needs, **(observe or {})})

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run."""
        super().reset(seed, context)
        self.drawn, self._ratio, self._trend = 0, 1.0, None
        budget = {"budget_flops": context.budget_flops}  # of a length unknown it says so
        self._facts = RunFacts.from_context(vars(context) | budget)

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


class Learned(SummaryPolicy):
    """Keeps the share that a trained agent says, from the run's summary.

    Source: this project: trained in gstds/KeepRatio-v0
    Cost: that of its picker; the network costs nothing beside
    Helps: meant for a small budget, near the runs that it was trained on
    Hurts: far from them: it extrapolates

    Args:
        path: The agent's folder, or the name of a shipped agent.

    Raises:
        AgentFileError: If the agent is not there, damaged, or made for something else.
    """

    state = ("_actor",)

    def __init__(self, path: str) -> None:
        self.agent = load_agent(path)
        super().__init__(self.agent.interval, self.agent.picker, self.agent.observe)
        self._actor = Actor(self.agent)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run."""
        super().reset(seed, context)
        self._actor.reset()

    def decide(self, summary: Array) -> float:
        """Return the agent's likeliest keep ratio."""
        return self._actor.ratio(summary)
