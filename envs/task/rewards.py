"""Rewards: what an agent that trains a learner is paid for.

Each reward of `REWARDS` is a pure function of what happened between two evaluations of the
reward-validation split. Between evaluations the reward is 0. Evaluations that a reward consumes are
charged. `AGENT_REWARDS` adds those that remember more of a run than two evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_fraction
from gstds.common.state import Stateful


@dataclass(frozen=True)
class Interval:
    """What happened between two evaluations.

    Attributes:
        loss_before: Reward-validation loss in nats at the evaluation before.
        loss_now: The same now.
        accuracy_now: Reward-validation accuracy in [0, 1] now.
        spent_share: Share of the budget spent in between.
        done: True at the last evaluation of the run.
        price: What one whole budget costs, in nats.
    """

    loss_before: float
    loss_now: float
    accuracy_now: float
    spent_share: float
    done: bool
    price: float


def validation_loss(interval: Interval) -> float:
    """Drop of the reward-validation loss, minus the price of the budget spent meanwhile."""
    return interval.loss_before - interval.loss_now - interval.price * interval.spent_share


def final_accuracy(interval: Interval) -> float:
    """Reward-validation accuracy, once, at the end."""
    return interval.accuracy_now if interval.done else 0.0


def nothing(interval: Interval) -> float:
    """Return 0: no evaluation is made or charged."""
    return 0.0


REWARDS = {"validation-loss": validation_loss, "final-accuracy": final_accuracy, "none": nothing}


def reward_function(name: str) -> Callable[[Interval], float]:
    """Return a reward by name.

    Raises:
        ValueError: If the name is unknown.
    """
    return REWARDS[check_choice("reward", name, REWARDS)]


def evaluates(name: str) -> bool:
    """Say whether a reward needs the reward-validation split to be evaluated."""
    return name != "none"


AGENT_REWARDS = ("validation-loss", "time-to-accuracy", "final-accuracy", "none")
_LEAST_SHARE = 1e-3


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

    ``validation-loss`` pays at every evaluation; ``time-to-accuracy`` (-log of the share of the
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
        run = self._run
        reached = run.reached
        if reached is None and accuracy >= self._target:
            reached = spent
        self._run = _Run(loss, spent, reached)
        if self.name == "time-to-accuracy":
            control = self._curve.spent_until(self._target) if self._curve else None
            return _sooner(reached) - _sooner(control) if done else 0.0
        interval = Interval(run.loss, loss, accuracy, spent - run.spent, done, self._price)
        raw = reward_function(self.name)(interval)
        return raw - self._control(run.spent, spent, done)

    def _control(self, before: float, now: float, done: bool) -> float:
        """Return what the control earned over the same spending.

        At the end that is all that it went on to earn: a budget left unspent is held against the
        whole of the control's, so that doing nothing is not as good as the control.
        """
        if self._curve is None or self.name == "none":
            return 0.0
        until = max(now, float(self._curve.spent[-1])) if done else now
        if self.name == "final-accuracy":
            return self._curve.accuracy_at(until) if done else 0.0
        drop = self._curve.loss_at(before) - self._curve.loss_at(until)
        return drop - self._price * (until - before)


def _sooner(share: float | None) -> float:
    return 0.0 if share is None else -math.log(max(_LEAST_SHARE, share))
