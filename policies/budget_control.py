"""Closed-loop control of what a run costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gstds.control import check_range, spread_ratio
from gstds.validation import check_fraction
from policies.base import KeepRatioPolicy, Observation, RunContext, Transition

__all__ = ["BudgetControl"]


class BudgetControl(KeepRatioPolicy):
    """Keeps what it takes to end at a wanted total of charged compute, whatever selecting costs.

    Before each batch: keep = (left - overhead) / (c · samples still to be drawn), where left is the
    wanted total minus what is charged so far, c an update's cost for a sample, and overhead what
    scoring and spectral solves will still be charged if they go on as they did. So the keep ratio
    is nearly constant and every error is made good over the rest of the run.

    Under an equal budget the run spends that budget whatever a policy does. There this policy
    spreads it over all epochs, so that every sample is drawn as often as in full training, and
    ``share`` has no say.

    Args:
        share: Wanted charged compute in (0, 1], as a share of full training's.
        low: Lowest keep ratio, in (0, 1].
        high: Highest keep ratio, in (0, 1].
        picker: Which samples are kept; the paper's hybrid.
        **picker_options: Options of the picker.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    source = "this project"
    cost = "that of the picker, made up for by keeping less"
    helps = "selectors of different cost are to be compared, or a bill is fixed beforehand"
    hurts = "nothing is kept for a part of the run that would need it more"

    def __init__(
        self,
        share: float = 0.5,
        low: float = 0.01,
        high: float = 1.0,
        picker: str = "hybrid",
        **picker_options: Any,
    ) -> None:
        super().__init__(None, picker, **picker_options)
        self.share = check_fraction("share", share, open_low=True)
        self.low, self.high = check_range(low, high)
        self._context: RunContext | None = None
        self._begin()

    def _begin(self) -> None:
        self._drawn = self._trained = self._looks = 0
        self._first = 0.0

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run with nothing drawn."""
        super().reset(seed, context)
        self._context = context
        self._begin()

    @property
    def _total(self) -> float:
        context = self._run
        full = context.epochs * context.num_samples * context.sample_flops
        return self.share * full if context.setting == "equal-epochs" else context.budget_flops

    @property
    def _run(self) -> RunContext:
        if self._context is None:
            raise RuntimeError("the policy has no run: call reset(seed, context) first")
        return self._context

    def keep_ratio(self, observation: Observation) -> float:
        """Return the share of the drawn batch to keep."""
        run = self._run
        looks = max(0, run.total_steps - 1 - self._looks)
        return spread_ratio(
            self._total - self._spent(observation),
            run.sample_flops,
            run.epochs * run.num_samples - self._drawn,
            looks * self._per_look(observation),
            self.low,
            self.high,
        )

    def _spent(self, observation: Observation) -> float:
        return (1.0 - float(observation["budget_left"][0])) * self._run.budget_flops

    def _overhead(self, observation: Observation) -> float:
        """Return what was charged for anything but training, this batch's scoring included."""
        return max(0.0, self._spent(observation) - self._trained * self._run.sample_flops)

    def _per_look(self, observation: Observation) -> float:
        """Return what a batch's scoring costs; the first may hold what is paid once."""
        overhead = self._overhead(observation)
        return (overhead - self._first) / self._looks if self._looks else overhead

    def learn(self, transition: Transition) -> None:
        """Count what was drawn and trained on.

        Raises:
            ValueError: If scoring alone costs more than is wanted in all.
        """
        if not self._looks:
            self._first = self._overhead(transition.observation)
        self._looks += 1
        self._drawn += int((np.asarray(transition.observation["valid"]) > 0.5).sum())
        self._trained += int((np.asarray(transition.weights) > 0).sum())
        if self._looks == 1 and self._looks < self._run.total_steps:
            self._refuse_what_scoring_exceeds(transition.next_observation)

    def _refuse_what_scoring_exceeds(self, observation: Observation) -> None:
        run = self._run
        full = run.epochs * run.num_samples * run.sample_flops
        needed = self._per_look(observation) * run.total_steps
        if needed >= self._total:
            raise ValueError(
                f"share={self._total / full:g} of full training's compute does not pay for "
                f"scoring, which takes {needed / full:.3f} of it in all; raise share, or pick by "
                "a score that costs less"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and what the first batch's scoring cost."""
        return {
            "drawn": self._drawn,
            "trained": self._trained,
            "looks": self._looks,
            "first": self._first,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._drawn, self._trained = int(state["drawn"]), int(state["trained"])
        self._looks, self._first = int(state["looks"]), float(state["first"])
