"""A bandit that chooses the keep ratio while the run goes on, and the rules that it may follow.

The rules are for rewards in [0, 1] that change over time; `RewardScale` puts others there. The only
random number is the one that `choose` is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_fraction, check_integer, check_number
from gstds.common.state import Stateful
from gstds.policies.base import KeepRatioPolicy, Observation, RunContext, Transition

Floats = npt.NDArray[np.float64]

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
        self.algorithm, self.ratios = algorithm, _checked_ratios(ratios)
        if memory is None:
            memory = 0.98 if algorithm == "ducb" else 0.9
        self.memory = check_fraction("memory", memory, open_low=True, open_high=True)
        self._options = {} if exploration is None else {"exploration": exploration}
        if algorithm == "ducb":
            self._options["discount"] = self.memory
        self._begin(0)

    def _begin(self, seed: int) -> None:
        self._bandit = make_bandit(self.algorithm, len(self.ratios), **self._options)
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


class Exp3S(Stateful):
    """Exp3.S: exponential weights that never forget an arm for good.

    p_i = (1 - γ) w_i / Σw + γ / K; after a reward x of arm j, w_i ← w_i exp(γ x̂_i / K) +
    e α Σw / K with x̂_j = x / p_j and 0 for the others. The weights are kept at sum 1, which changes
    no p. Source: Auer, Cesa-Bianchi, Freund, Schapire 2002, The nonstochastic multiarmed bandit
    problem, section 8.

    Args:
        arms: K, at least 2.
        exploration: γ, in (0, 1].
        sharing: α, in [0, 1]: the share that every arm gets back at each step.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.
    """

    state = ("_weights",)

    def __init__(self, arms: int, exploration: float = 0.3, sharing: float = 0.001) -> None:
        self.arms = check_integer("arms", arms, low=2)
        self.exploration = check_fraction("exploration", exploration, open_low=True)
        self.sharing = check_fraction("sharing", sharing)
        self._weights: Floats = np.full(arms, 1.0 / arms)

    @property
    def probabilities(self) -> Floats:
        """Each arm's chance to be chosen (K,)."""
        return (1.0 - self.exploration) * self._weights + self.exploration / self.arms

    def choose(self, uniform: float) -> int:
        """Return an arm; ``uniform`` in [0, 1) decides which."""
        reached = np.searchsorted(np.cumsum(self.probabilities), uniform, side="right")
        return min(int(reached), self.arms - 1)

    def learn(self, arm: int, reward: float) -> None:
        """Take in the reward in [0, 1] of an arm that was chosen."""
        estimate = np.zeros(self.arms)
        estimate[arm] = check_fraction("reward", reward) / self.probabilities[arm]
        grown = self._weights * np.exp(self.exploration * estimate / self.arms)
        grown += math.e * self.sharing / self.arms
        self._weights = grown / grown.sum()


class DiscountedUCB(Stateful):
    """Discounted UCB: the arm whose discounted mean and uncertainty are highest together.

    N_i = Σ γ^(t-s) over the times s that arm i was played, n = Σ N_i, and arm i's index is its mean
    with the same discounts plus 2 sqrt(ξ log n / N_i). Each arm is played once first. Source:
    Garivier and Moulines 2011, On upper-confidence bound policies for switching bandit problems.

    Args:
        arms: K, at least 2.
        exploration: ξ, at least 0.
        discount: γ, in (0, 1].

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.
    """

    state = ("_counts", "_sums")

    def __init__(self, arms: int, exploration: float = 0.05, discount: float = 0.95) -> None:
        self.arms = check_integer("arms", arms, low=2)
        self.exploration = check_number("exploration", exploration, low=0)
        self.discount = check_fraction("discount", discount, open_low=True)
        self._counts: Floats = np.zeros(arms)
        self._sums: Floats = np.zeros(arms)

    @property
    def indices(self) -> Floats:
        """Each arm's index (K,), infinite if it was never played."""
        played = self._counts > 0
        counts = np.where(played, self._counts, 1.0)
        spread = self.exploration * math.log(max(1.0, float(self._counts.sum())))
        return np.where(played, self._sums / counts + 2.0 * np.sqrt(spread / counts), math.inf)

    def choose(self, uniform: float) -> int:
        """Return the arm of the highest index; ``uniform`` in [0, 1) decides between equals."""
        indices = self.indices
        best = np.flatnonzero(indices == indices.max())
        return int(best[min(int(uniform * len(best)), len(best) - 1)])

    def learn(self, arm: int, reward: float) -> None:
        """Take in the reward in [0, 1] of an arm that was chosen."""
        played = np.arange(self.arms) == arm
        self._counts = self.discount * self._counts + played
        self._sums = self.discount * self._sums + played * check_fraction("reward", reward)


def make_bandit(algorithm: str, arms: int, **options: float) -> Exp3S | DiscountedUCB:
    """Return a bandit by name: ``exp3s`` or ``ducb``.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If the name is unknown or an option is out of range.
    """
    check_choice("algorithm", algorithm, ("exp3s", "ducb"))
    return (Exp3S if algorithm == "exp3s" else DiscountedUCB)(arms, **options)


class RewardScale(Stateful):
    """Puts rewards of unknown size and trend into [0, 1].

    A reward is held against the discounted mean m and standard deviation s of those before it:
    clip(½ + (x - m) / (4 s), 0, 1). The first is ½.

    Args:
        discount: Of earlier rewards, in (0, 1).

    Raises:
        ValueError: If ``discount`` is out of range.
    """

    state = ("_weight", "_mean", "_square")

    def __init__(self, discount: float = 0.8) -> None:
        self.discount = check_fraction("discount", discount, open_low=True, open_high=True)
        self._weight = self._mean = self._square = 0.0

    def scaled(self, reward: float) -> float:
        """Return the reward in [0, 1], and remember it.

        Raises:
            ValueError: If the reward is not finite.
        """
        reward = check_number("reward", reward)
        spread = math.sqrt(self._square / self._weight) if self._weight else 0.0
        answer = 0.5
        if self._weight and (spread or reward != self._mean):
            deviation = max(spread, abs(reward - self._mean) / 2.0)
            answer += (reward - self._mean) / (4.0 * deviation)
        # The discounted form of the running mean and sum of squares about it.
        self._weight = self.discount * self._weight + 1.0
        before = self._mean
        self._mean += (reward - before) / self._weight
        self._square = self.discount * self._square + (reward - before) * (reward - self._mean)
        return answer
