"""A contextual bandit that learns the keep ratio while it is deployed: no training before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_fraction, check_number
from gstds.common.noise import keyed_uniform
from gstds.observation.summary import SUMMARY_NAMES
from gstds.policies.base import Array, Observation, RunContext, Transition
from gstds.policies.learned.agent_policy import SummaryPolicy

Floats = npt.NDArray[np.float64]

LINUCB_RATIOS = (0.05, 0.1, 0.15, 0.25, 0.5)
_SIZE = len(SUMMARY_NAMES) + 1


class LinUCB(SummaryPolicy):
    """Learns which keep ratio pays, from the run that it is in (LinUCB, arXiv 1003.0146).

    Each keep ratio has a ridge regression from the run's summary to what it earned: the drop of the
    mean last loss, relative to where it stood, for each hundredth of the budget spent. The ratio
    with the highest upper bound is taken. The losses are those that training made: they cost
    nothing, and are biased by what was selected.

    Source: LinUCB, arXiv 1003.0146; Thompson sampling, arXiv 1209.3352
    Cost: that of its picker, and two solves of 18 unknowns for each ratio at a decision
    Helps: meant for when there are no runs to train an agent on; below random keep on digits
    Hurts: short runs: it has only a few dozen decisions to learn from

    Args:
        ratios: Keep ratios in (0, 1] to choose from.
        exploration: Widths of the bound that are added; or of the draw, with ``thompson``.
        ridge: Ridge penalty; above 0.
        draw: ``ucb``, or ``thompson``: draw each regression from its posterior.
        interval: Drawn batches between decisions.
        picker: A name of `gstds.selection.pickers.RATIO_PICKERS`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    state = ("_precision", "_moment", "_context", "_arm", "_decisions", "_seed", "_before")

    def __init__(
        self,
        ratios: Sequence[float] = LINUCB_RATIOS,
        exploration: float = 0.5,
        ridge: float = 1.0,
        draw: str = "ucb",
        interval: int = 4,
        picker: str = "hybrid",
    ) -> None:
        self._ratios = tuple(check_fraction("ratios", r, open_low=True) for r in ratios)
        if len(self._ratios) < 2:
            raise ValueError(f"ratios must hold at least two keep ratios, got {self._ratios}")
        self.exploration = check_number("exploration", exploration, low=0)
        self.ridge = check_number("ridge", ridge, low=0, open_low=True)
        self.draw = check_choice("draw", draw, ("ucb", "thompson"))
        super().__init__(interval, picker)
        self._forget(0)

    def _forget(self, seed: int) -> None:
        arms = len(self._ratios)
        self._precision = np.stack([self.ridge * np.eye(_SIZE)] * arms)
        self._moment, self._context = np.zeros((arms, _SIZE)), np.zeros(_SIZE)
        self._seed, self._decisions, self._arm = seed, 0, 0
        self._before: tuple[float, float] | None = None

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run: nothing is known of the ratios."""
        super().reset(seed, context)
        self._forget(seed)

    def decide(self, summary: Array) -> float:
        """Return the most promising keep ratio."""
        self._context = np.append(summary.astype(np.float64), 1.0)
        self._arm = int(np.argmax(self._promises(self._context)))
        self._decisions += 1
        return self._ratios[self._arm]

    def _promises(self, context: Floats) -> Floats:
        contexts = np.broadcast_to(context, self._moment.shape)[..., None]
        solved = np.linalg.solve(self._precision, contexts)
        width = np.sqrt(np.maximum(solved[..., 0] @ context, 0.0))
        means = np.linalg.solve(self._precision, self._moment[..., None])[..., 0] @ context
        if self.draw == "ucb":
            return np.asarray(means + self.exploration * width)
        arms = np.arange(len(self._ratios))
        first = keyed_uniform(self._seed, self._decisions, 0, indices=arms)
        second = keyed_uniform(self._seed, self._decisions, 1, indices=arms)
        normal = np.sqrt(-2.0 * np.log(1.0 - first)) * np.cos(2.0 * math.pi * second)
        return np.asarray(means + self.exploration * width * normal)

    def step_flops(self, drawn: int, kept: int, context: RunContext) -> float:
        """Return the operations of the picker, and a step's share of a decision's solves."""
        solves = 2 * len(self._ratios) * (2 / 3 * _SIZE**3 + 2 * _SIZE**2)
        return super().step_flops(drawn, kept, context) + solves / self.interval

    def learn(self, transition: Transition) -> None:
        """Credit the ratio of an interval that has ended with what it earned."""
        loss, left = self._before = self._before or _standing(transition.observation)
        if self.drawn % self.interval:
            return
        loss_after, left_after = _standing(transition.next_observation)
        spent = max(1e-6, left - left_after)
        drop = (loss - loss_after) / max(abs(loss), 1e-6)
        self._before = None
        self.credit(float(np.clip(drop / (100.0 * spent), -1.0, 1.0)))

    def credit(self, earned: float) -> None:
        """Learn what the ratio last decided on has earned."""
        self._precision[self._arm] += np.outer(self._context, self._context)
        self._moment[self._arm] += earned * self._context


def _standing(observation: Observation) -> tuple[float, float]:
    return float(observation["mean_last_loss"][0]), float(observation["budget_left"][0])
