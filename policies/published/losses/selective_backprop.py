"""Selective-Backprop: a coin for each sample, whose odds rise with its loss's percentile."""

from __future__ import annotations

from typing import Any

import numpy as np

from gstds.common.checks import check_fraction, check_integer, check_number
from gstds.common.noise import derived_uniform
from gstds.policies.base import (
    AnySchedule,
    KeepRatioPolicy,
    Observation,
    RunContext,
    Transition,
    Weights,
)
from gstds.selection.pickers import NamedPicker
from gstds.selection.weights import keep_probabilities, percentiles, weighted_sample


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


class WindowedSelectiveBackprop(KeepRatioPolicy):
    """Selective-Backprop as Composer has it: within a window of the run, at every other batch.

    There ``keep`` of the drawn batch is drawn with odds percentile^(1 / keep - 1), the percentile
    of the loss in the batch; all else trains on everything. The count is rounded here, cut there.

    Deviates from the release: the forward is charged at every batch; there it is taken within the
    window alone, at the batches that are chosen from.

    Source: Composer's selective_backprop (mosaicml); Selective-Backprop, arXiv 1910.00762
    Cost: n·f for the learner's forward; in the release at a fifth of the batches
    Helps: as selective-backprop, and safer: the first half and the end are full training
    Hurts: noisy labels; little is saved, and as charged here nothing

    Args:
        keep: Share kept of the batches that are chosen from, in (0, 1].
        start: Progress from which on some batches are chosen from.
        end: Progress from which on none is any more.
        interrupt: Every so many batches of an epoch one is kept whole; 0 for none.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    state = ("_steps_done",)
    _steps_done, _per_epoch = 0, 1

    def __init__(
        self, keep: float = 0.5, start: float = 0.5, end: float = 0.9, interrupt: int = 2
    ) -> None:
        self.keep = check_fraction("keep", keep, open_low=True)
        asked = {"reads": ("learner_losses",), "needs": {"learner_losses": {}}}
        self.picker = NamedPicker(self._pick, "Composer's.", **asked)
        self.start, self.end = check_fraction("start", start), check_fraction("end", end)
        self.interrupt = check_integer("interrupt", interrupt, low=0)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run at the beginning of an epoch."""
        super().reset(seed, context)
        self._steps_done, self._per_epoch = 0, max(1, context.steps_per_epoch)

    def keep_ratio(self, observation: Observation) -> float:
        """Return the share kept: ``keep``, or 1."""
        number = self._steps_done % self._per_epoch + 1
        chosen = not self.interrupt or number % self.interrupt
        within = self.start <= self.schedule_progress(observation) < self.end
        return self.keep if within and chosen else 1.0

    def _pick(self, losses: Any, k: int, noise: Any) -> Any:
        ranks = np.argsort(np.lexsort((noise, losses)))
        odds = ((ranks + 0.5) / len(ranks)) ** (1.0 / self.keep - 1.0)
        return weighted_sample(odds, k, noise)

    def learn(self, transition: Transition) -> None:
        """Count the step."""
        self._steps_done += 1
