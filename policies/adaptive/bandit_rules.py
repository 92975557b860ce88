"""Bandits for rewards that change over time: Exp3.S and discounted UCB.

Rewards lie in [0, 1]; `RewardScale` puts others there. State goes in and out by `state_dict`; the
only random number is the one that `choose` is given.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_fraction, check_integer, check_number
from gstds.common.state import Stateful

__all__ = ["ALGORITHMS", "Bandit", "DiscountedUCB", "Exp3S", "RewardScale", "make_bandit"]

Floats = npt.NDArray[np.float64]


class Bandit(Protocol):
    """Chooses among K arms and learns from what the chosen one pays."""

    def choose(self, uniform: float) -> int:
        """Return an arm; ``uniform`` in [0, 1) decides where there is chance."""

    def learn(self, arm: int, reward: float) -> None:
        """Take in the reward in [0, 1] of an arm that was chosen."""


class Exp3S(Stateful):
    """Exp3.S: exponential weights that never forget an arm for good.

    p_i = (1 - γ) w_i / Σw + γ / K; after a reward x of arm j, w_i ← w_i exp(γ x̂_i / K) +
    e α Σw / K with x̂_j = x / p_j and 0 for the others. The weights are kept at sum 1, which changes
    no p. Source: Auer, Cesa-Bianchi, Freund, Schapire 2002, The nonstochastic multiarmed bandit
    problem, section 8.

    Args:
        arms: K, at least 2.
        exploration: γ, in (0, 1].
        sharing: α, at least 0: the share that every arm gets back at each step.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.
    """

    state = ("_weights",)

    def __init__(self, arms: int, exploration: float = 0.3, sharing: float = 0.001) -> None:
        self.arms = check_integer("arms", arms, low=2)
        self.exploration = check_fraction("exploration", exploration, open_low=True)
        self.sharing = check_number("sharing", sharing, low=0, high=1)
        self._weights: Floats = np.full(arms, 1.0 / arms)

    @property
    def probabilities(self) -> Floats:
        """Each arm's chance to be chosen (K,)."""
        uniform = self.exploration / self.arms
        return np.asarray((1.0 - self.exploration) * self._weights + uniform)

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
        index = self._sums / counts + 2.0 * np.sqrt(spread / counts)
        return np.asarray(np.where(played, index, math.inf))

    def choose(self, uniform: float) -> int:
        """Return the arm of the highest index; ``uniform`` in [0, 1) decides between equals."""
        indices = self.indices
        best = np.flatnonzero(indices == indices.max())
        return int(best[min(int(uniform * len(best)), len(best) - 1)])

    def learn(self, arm: int, reward: float) -> None:
        """Take in the reward in [0, 1] of an arm that was chosen."""
        reward = check_fraction("reward", reward)
        self._counts *= self.discount
        self._sums *= self.discount
        self._counts[arm] += 1.0
        self._sums[arm] += reward


ALGORITHMS: dict[str, type[Exp3S] | type[DiscountedUCB]] = {
    "exp3s": Exp3S,
    "ducb": DiscountedUCB,
}


def make_bandit(algorithm: str, arms: int, **options: float) -> Bandit:
    """Return a bandit by name: ``exp3s`` or ``ducb``.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If the name is unknown or an option is out of range.
    """
    return ALGORITHMS[check_choice("algorithm", algorithm, ALGORITHMS)](arms, **options)


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
        self._remember(reward)
        return answer

    def _remember(self, reward: float) -> None:
        # The discounted form of the running mean and sum of squares about it.
        weight = self.discount * self._weight
        self._weight = weight + 1.0
        before = self._mean
        self._mean += (reward - before) / self._weight
        self._square = self.discount * self._square + (reward - before) * (reward - self._mean)
