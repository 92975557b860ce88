"""A bandit that chooses the keep ratio while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gstds.common.checks import check_choice, check_fraction
from gstds.policies.adaptive.bandit_rules import Bandit, RewardScale, make_bandit
from gstds.policies.base import KeepRatioPolicy, Observation, RunContext, Transition

__all__ = ["KeepRatioBandit"]

RATIOS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)


class KeepRatioBandit(KeepRatioPolicy):
    """Tries keep ratios and prefers those that lower the reward-validation loss at little cost.

    A keep ratio is held from one evaluation to the next. The reward is the drop of the
    reward-validation loss in between, minus the price of what was spent; held against those
    before it and put into [0, 1], it teaches a bandit for rewards that change with time.

    Source: Exp3.S: Auer et al. 2002; discounted UCB: Garivier and Moulines 2011, arXiv 0805.3415
    Cost: that of the picker, and the evaluations of the reward-validation split
    Helps: meant for long runs with many evaluations (--evaluations); not shown there
    Hurts: short runs: a keep ratio is tried for a whole evaluation interval, noise decides

    Args:
        algorithm: ``exp3s`` (Exp3.S) or ``ducb`` (discounted UCB).
        ratios: The keep ratios, 5 to 9 in (0, 1], rising.
        exploration: γ of Exp3.S or ξ of discounted UCB; None for .3 and .05.
        memory: Discount per evaluation in (0, 1) of earlier rewards; None for .9, and for .98 of
            discounted UCB, which at .9 forgets an arm before it has tried all of them twice.
        picker: Which samples are kept; the paper's hybrid.
        **picker_options: Options of the picker.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    state = ("_arm", "_bandit", "_scale", "_generator")
    uses_reward = True

    def __init__(
        self,
        algorithm: str = "exp3s",
        ratios: Sequence[float] = RATIOS,
        exploration: float | None = None,
        memory: float | None = None,
        picker: str = "hybrid",
        **picker_options: Any,
    ) -> None:
        super().__init__(None, picker, **picker_options)
        self.algorithm = check_choice("algorithm", algorithm, ("exp3s", "ducb"))
        self.ratios = _checked_ratios(ratios)
        if memory is None:
            memory = 0.98 if algorithm == "ducb" else 0.9
        self.memory = check_fraction("memory", memory, open_low=True, open_high=True)
        self._options = {} if exploration is None else {"exploration": exploration}
        if algorithm == "ducb":
            self._options["discount"] = self.memory
        self._begin(0)

    def _begin(self, seed: int) -> None:
        self._bandit: Bandit = make_bandit(self.algorithm, len(self.ratios), **self._options)
        self._scale = RewardScale(self.memory)
        self._generator = np.random.default_rng(seed)
        self._arm = self._bandit.choose(self._generator.random())

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run: nothing learned, a first ratio chosen."""
        super().reset(seed, context)
        self._begin(seed)

    def keep_ratio(self, observation: Observation) -> float:
        """Return the share of the drawn batch to keep."""
        return self.ratios[self._arm]

    def learn(self, transition: Transition) -> None:
        """At an evaluation, learn from the reward and choose the next ratio."""
        if transition.reward == 0.0 and not transition.info.get("evaluate", False):
            return
        self._bandit.learn(self._arm, self._scale.scaled(transition.reward))
        self._arm = self._bandit.choose(self._generator.random())


def _checked_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    if not isinstance(ratios, list | tuple):
        raise TypeError(f"ratios must be a list of numbers, got {ratios!r}")
    if not 5 <= len(ratios) <= 9:
        raise ValueError(f"ratios must be 5 to 9 keep ratios, got {len(ratios)}: {list(ratios)}")
    checked = tuple(check_fraction("ratios", r, open_low=True) for r in ratios)
    if sorted(set(checked)) != list(checked):
        raise ValueError(f"ratios must rise, got {list(ratios)}")
    return checked
