"""Rewards: what an agent that trains a learner is paid for.

A reward is paid at evaluations of the reward-validation split, which are charged; in between it is
0. `AGENT_REWARDS` adds to `REWARDS` those that only agents of ``gstds/KeepRatio-v0`` are paid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_fraction
from gstds.common.state import Stateful

REWARDS = ("validation-loss", "final-accuracy", "none")
AGENT_REWARDS = ("validation-loss", "time-to-accuracy", "final-accuracy", "none")
_LEAST_SHARE = 1e-3


def evaluates(name: str) -> bool:
    """Say whether a reward needs the reward-validation split to be evaluated."""
    return name != "none"


@dataclass(frozen=True)
class Curve:
    """What a control had reached by how much it had spent: a reward's baseline.

    Attributes:
        spent: Shares of the budget (M,), ascending.
        loss: Reward-validation loss (M,) in nats.
        accuracy: Reward-validation accuracy (M,) in [0, 1].
    """

    spent: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    def loss_at(self, spent: float) -> float:
        """Return the loss in nats at a share of the budget."""
        return float(np.interp(spent, self.spent, self.loss))

    def accuracy_at(self, spent: float) -> float:
        """Return the accuracy in [0, 1] at a share of the budget."""
        return float(np.interp(spent, self.spent, self.accuracy))

    def spent_until(self, accuracy: float) -> float | None:
        """Return the share of the budget at which an accuracy was first seen, None if never."""
        reached = np.flatnonzero(self.accuracy >= accuracy)
        return float(self.spent[reached[0]]) if len(reached) else None


class _Run(NamedTuple):
    """How far a run has come at its last evaluation."""

    loss: float
    spent: float
    reached: float | None = None


class RewardMeter(Stateful):
    """Turns a run's evaluations into rewards.

    ``validation-loss`` pays at every evaluation the drop of the loss since the one before, minus
    the price of the budget spent meanwhile; ``time-to-accuracy`` (-log of the share of the
    budget at which ``target`` was first seen; 0 if never) and ``final-accuracy`` pay once, at the
    end. With a curve, each pays how much better than the curve at the same spending it went.

    Args:
        name: One of `AGENT_REWARDS`.
        price: What a whole budget costs, in nats, for ``validation-loss``.
        target: Accuracy in (0, 1] for ``time-to-accuracy``.
        curve: A control's, to be subtracted; None subtracts nothing.

    Raises:
        ValueError: If the name is unknown or the target out of range.
    """

    state = ("_run",)

    def __init__(
        self, name: str, *, price: float = 0.1, target: float = 0.7, curve: Curve | None = None
    ) -> None:
        self.name = check_choice("reward", name, AGENT_REWARDS)
        self._target = check_fraction("target_accuracy", target, open_low=True)
        self._price, self._curve = price, curve
        self._run = _Run(0.0, 0.0)

    def begin(self, loss: float, accuracy: float, spent: float) -> None:
        """Take up the evaluation before the first step: loss in nats, share of the budget spent."""
        self._run = _Run(loss, spent, spent if accuracy >= self._target else None)

    def reward(self, loss: float, accuracy: float, spent: float, *, done: bool) -> float:
        """Return what an evaluation pays.

        Args:
            loss: Reward-validation loss in nats now.
            accuracy: Reward-validation accuracy in [0, 1] now.
            spent: Share of the budget spent so far.
            done: True at the last evaluation of the run.
        """
        run, curve = self._run, self._curve
        reached = spent if run.reached is None and accuracy >= self._target else run.reached
        self._run = _Run(loss, spent, reached)
        # At the end a budget left unspent is held against the whole of the control's, so that doing
        # nothing is not as good as the control.
        until = max(spent, float(curve.spent[-1])) if curve and done else spent
        if self.name == "validation-loss":
            earned = run.loss - loss - self._price * (spent - run.spent)
            if curve:
                drop = curve.loss_at(run.spent) - curve.loss_at(until)
                earned -= drop - self._price * (until - run.spent)
            return earned
        if not done or self.name == "none":
            return 0.0
        if self.name == "final-accuracy":
            return accuracy - (curve.accuracy_at(until) if curve else 0.0)
        control = curve.spent_until(self._target) if curve else None
        return _sooner(reached) - _sooner(control)


def _sooner(share: float | None) -> float:
    return 0.0 if share is None else -math.log(max(_LEAST_SHARE, share))
