"""Selective-Backprop: a coin for each sample, whose odds rise with its loss's percentile."""

from __future__ import annotations

from typing import Any

import numpy as np

from gstds.common.checks import check_integer, check_number
from gstds.common.noise import derived_uniform
from gstds.policies.base import (
    AnySchedule,
    KeepRatioPolicy,
    Observation,
    RunContext,
    Transition,
    Weights,
)
from gstds.selection.weights import keep_probabilities, percentiles


class SelectiveBackprop(KeepRatioPolicy):
    """Selective-Backprop: kept with probability (percentile of the loss in the last 1024) ** β.

    With ``beta`` given that is the paper's rule: β 1 keeps about half, 2 a third, fewer while
    losses fall. Without it the exponent is solved at each step, so that the expected number kept
    is the schedule's. Kept samples weigh 1, as in the paper: the gradient leans to high losses.

    Source: Selective-Backprop, arXiv 1910.00762
    Cost: n·f for the learner's forward
    Helps: meant for clean data on which most samples are learned early; milder than big-loss
    Hurts: noisy labels; high keep ratios, where the forward costs more than it saves

    Args:
        schedule: Keep-ratio schedule; without effect if ``beta`` is given.
        beta: Exponent, None to solve it.
        history: Losses that the percentile is taken among, besides the batch's own.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    state = ("_past",)
    paper_schedule = ("constant", {"keep": 0.5})
    paper_parameters = {"beta": 1.0}  # noqa: RUF012  (a constant of the class)
    _own_needs = {"learner_losses": {}}  # noqa: RUF012
    _losses = "learner_losses"

    def __init__(
        self, schedule: AnySchedule = None, beta: float | None = None, history: int = 1024
    ) -> None:
        super().__init__(schedule, "uniform")
        self.beta = None if beta is None else check_number("beta", beta, low=0, high=1e3)
        self.history = check_integer("history", history, low=1)
        self._past = np.empty(0, dtype=np.float64)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run with no history."""
        super().reset(seed, context)
        self._past = np.empty(0, dtype=np.float64)

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): 1 for the samples whose coin says so."""
        rows, losses = self._batch_losses(observation)
        ratio = self.checked_ratio(observation)
        weights = np.zeros(len(observation["valid"]), dtype=np.float32)
        if ratio > 0.0 or self.beta is not None:
            shares = percentiles(losses, self._newest(losses))
            coins = derived_uniform(np.asarray(observation["noise"])[rows], 0)
            weights[rows[coins < keep_probabilities(shares, ratio, self.beta)]] = 1.0
        return weights

    def learn(self, transition: Transition) -> None:
        """Add the batch's losses to the history."""
        rows, losses = self._batch_losses(transition.observation)
        # In the order of the noise: a batch in another order leaves the same history.
        order = np.argsort(np.asarray(transition.observation["noise"])[rows], kind="stable")
        self._past = self._newest(losses[order][np.isfinite(losses[order])])

    def _batch_losses(self, observation: Observation) -> tuple[Any, Any]:
        rows = np.flatnonzero(np.asarray(observation["valid"]) > 0.5)
        return rows, np.asarray(observation[self._losses], dtype=np.float64)[rows]

    def _newest(self, losses: Any) -> Any:
        return np.concatenate([self._past, losses])[-max(self.history, len(losses)) :]


class StaleSelectiveBackprop(SelectiveBackprop):
    """Selective-Backprop on each sample's loss at its last visit: no scoring forward.

    Not the authors' StaleSB, which forwards a sample again after two epochs, and primes: here a
    loss is as old as the sample's last training. Samples that were never trained on rank above
    all others, and are no part of the history that others are ranked in. Compare it with `best` at
    twice the learning rate, which is what the weight of 2 of `best` is.

    Source: after StaleSB of Selective-Backprop, arXiv 1910.00762, and not the same
    Cost: nothing beside training on the kept samples
    Helps: as selective-backprop, and whenever a forward is dear
    Hurts: noisy labels; low keep ratios, where last losses are old

    Args:
        schedule: Keep-ratio schedule; without effect if ``beta`` is given.
        beta: Exponent, None to solve it.
        history: Losses that the percentile is taken among, besides the batch's own.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    _own_needs = {}  # noqa: RUF012
    _losses = "last_losses"

    def _batch_losses(self, observation: Observation) -> tuple[Any, Any]:
        rows, losses = super()._batch_losses(observation)
        seen = np.asarray(observation["visited"])[rows] > 0.5
        return rows, np.where(seen, losses, np.inf)
