"""Rewards: what an agent that trains a learner is paid for.

Each reward is a pure function of what happened between two evaluations of the reward-validation
split. Between evaluations the reward is 0. Evaluations that a reward consumes are charged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gstds.validation import check_choice

__all__ = ["REWARDS", "Interval", "evaluates", "reward_function"]


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


REWARDS: dict[str, Callable[[Interval], float]] = {
    "validation-loss": validation_loss,
    "final-accuracy": final_accuracy,
    "none": nothing,
}


def reward_function(name: str) -> Callable[[Interval], float]:
    """Return a reward by name.

    Raises:
        ValueError: If the name is unknown.
    """
    return REWARDS[check_choice("reward", name, REWARDS)]


def evaluates(name: str) -> bool:
    """Say whether a reward needs the reward-validation split to be evaluated."""
    return name != "none"
