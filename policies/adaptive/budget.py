"""Closed-loop control of what a run costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gstds.common.checks import check_fraction
from gstds.policies.base import KeepRatioPolicy, Observation, RunContext, Transition
from gstds.selection.control import check_range, spread_ratio
from gstds.selection.weights import kept_count


class BudgetControl(KeepRatioPolicy):
    """Keeps what it takes to end at a wanted total of charged compute, whatever selecting costs.

    Before each batch: keep = (left - overhead) / (c · samples still to be drawn), where left is the
    wanted total minus what is charged so far and what waits in a pack, c an update's cost for a
    sample, and overhead what scoring, spectral solves and the picker's own arithmetic will still be
    charged if they go on as they did. So the keep ratio is nearly constant and every error is made
    good over the rest of the run. A total that the lowest keep ratio overspends is refused.

    Under an equal budget the run spends that budget whatever a policy does. There this policy
    spreads it over all epochs, so that every sample is drawn as often as in full training, and
    ``share`` has no say.

    Source: this project
    Cost: that of the picker, made up for by keeping less
    Helps: selectors of different cost are to be compared, or a bill is fixed beforehand
    Hurts: nothing is kept for a part of the run that would need it more

    Args:
        share: Wanted charged compute in (0, 1], as a share of full training's.
        low: Lowest keep ratio, in (0, 1]; at least one sample of each batch is kept.
        high: Highest keep ratio, in (0, 1].
        picker: Which samples are kept; the paper's hybrid.
        **picker_options: Options of the picker.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    state = ("_drawn", "_trained", "_looks", "_first", "_waiting", "_chosen")

    _context: RunContext | None = None
    _drawn = _trained = _looks = 0
    _first = _waiting = _chosen = 0.0

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

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run with nothing drawn.

        Raises:
            ValueError: If the lowest keep ratio takes more than ``share``.
        """
        super().reset(seed, context)
        self._context, self._least = context, max(self.low, 1.0 / context.batch_size)
        full = context.epochs * context.num_samples * context.sample_flops
        self._by_epochs = context.setting == "equal-epochs"
        total = self.share * full if self._by_epochs else context.budget_flops
        self._full, self._total = full / context.shards, total / context.shards  # this shard's
        self._drawn = self._trained = self._looks = 0
        self._first = self._waiting = self._chosen = 0.0
        if self._by_epochs and self._least > self.share:
            raise ValueError(
                f"share={self.share:g} is below the lowest keep ratio, low={self.low:g} and one "
                f"sample of each {context.batch_size}; raise share, or lower low"
            )

    @property
    def _run(self) -> RunContext:
        if self._context is None:
            raise RuntimeError("the policy has no run: call reset(seed, context) first")
        return self._context

    def keep_ratio(self, observation: Observation) -> float:
        """Return the share of the drawn batch to keep."""
        run = self._run
        steps = min(run.total_steps, run.max_draws)
        samples = min(run.epochs * run.num_samples / run.shards, steps * run.batch_size)
        samples -= self._drawn
        drawn = _valid(observation)
        later = (samples - drawn) / run.batch_size
        left = self._total - self._spent(observation) - self._waiting * run.sample_flops
        left -= max(0, steps - 1 - self._looks) * self._per_look(observation)
        ratio = self.high
        for _ in range(3):  # what choosing takes depends on how many are chosen
            choosing = self._choosing(drawn, ratio) + later * self._choosing(run.batch_size, ratio)
            ratio = spread_ratio(left, run.sample_flops, samples, choosing, self.low, self.high)
        return ratio

    def _choosing(self, drawn: int, ratio: float) -> float:
        """Return the operations of the picker for a batch of which a share is kept."""
        return self.step_flops(drawn, kept_count(ratio, drawn), self._run)

    def _spent(self, observation: Observation) -> float:
        budget = self._run.budget_flops / self._run.shards
        return (1.0 - float(observation["budget_left"][0])) * budget

    def _overhead(self, observation: Observation) -> float:
        """Return what was charged for scoring, this batch's included."""
        trained = (self._trained - self._waiting) * self._run.sample_flops
        return max(0.0, self._spent(observation) - trained - self._chosen)

    def _per_look(self, observation: Observation) -> float:
        """Return what a batch's scoring costs; the first may hold what is paid once."""
        overhead = self._overhead(observation)
        return (overhead - self._first) / self._looks if self._looks else overhead

    def learn(self, transition: Transition) -> None:
        """Count what was drawn and trained on.

        Raises:
            ValueError: If scoring and the lowest keep ratio cost more than is wanted in all.
        """
        run = self._run
        if not self._looks:
            self._first = self._overhead(transition.observation)
        drawn, kept = _valid(transition.observation), int((transition.weights > 0).sum())
        self._looks += 1
        self._drawn += drawn
        self._trained += kept
        self._chosen += self.step_flops(drawn, kept, run)
        self._waiting = transition.info.get("waiting", 0) / run.shards
        if self._looks > 1 or run.total_steps == 1:
            return
        scoring = self._per_look(transition.next_observation)
        needed = (scoring + self._choosing(run.batch_size, self._least)) * run.total_steps
        least = self._least * self._full if self._by_epochs else 0.0
        if needed + least >= 1.01 * self._total:
            raise ValueError(
                f"share={self._total / self._full:g} of full training's compute does not pay for "
                f"scoring, which takes {needed / self._full:.3f} of it in all, and the lowest keep "
                f"ratio, {least / self._full:.3f}; raise share, or pick by a score that costs less"
            )


def _valid(observation: Observation) -> int:
    return int((np.asarray(observation["valid"]) > 0.5).sum())
