"""The best policy found here: many small updates, each a balanced draw of what is learnable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.selection import learnability, top_k, weights_for_ratio
from gstds.validation import check_fraction, check_number
from policies.base import Observation, Policy, RunContext, Transition, Weights
from policies.loss_model import LossModel

__all__ = ["Best", "rank_in_class"]

Floats = npt.NDArray[np.float64]
_LAST = 1e6
_MODEL_READS = ("labels", "reference_losses", "last_losses", "visited")


class Best(Policy):
    """Few samples a step: learnable, long unseen, of all classes, with wrong labels last.

    A sample's score is ``learnability`` x (the learner's loss on it, as guessed by `LossModel`,
    minus the reference's), plus ``coverage`` x (the passes of training since it was last trained
    on), plus Gumbel noise: without the two steps that follow, a draw without replacement in
    proportion to exp(score). Samples that the reference finds much less likely than a guess are
    suspected of a wrong label and go last. Then the best of every class go first, next the second
    best of every class, and so on.

    The keep ratio is small and constant: at a given budget that gives many updates.

    Args:
        keep: Share of each drawn batch that is kept, in (0, 1].
        learnability: Weight of a nat of learnability, at least 0.
        coverage: Weight of a pass without being trained on, at least 0.
        doubt: Reference loss above which a label is suspected, in units of a guess's, log C.
        balance: Whether classes take turns.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    source = "this project; learnability from arXiv 2206.07137, last losses from arXiv 2303.04947"
    cost = "about 2·n·(C + 5) operations, not charged: less than a thousandth of an update"
    helps = "at a small budget, which it spends on many small updates; with wrong labels"
    hurts = "where the learner outgrows the reference, as on digits; wall clock: updates are small"
    needs = {"reference_losses": {}}  # noqa: RUF012  (a constant of the class)

    def __init__(
        self,
        keep: float = 0.0625,
        learnability: float = 1.0,
        coverage: float = 1.0,
        doubt: float = 1.0,
        balance: bool = True,
    ) -> None:
        if not isinstance(balance, bool):
            raise TypeError(f"balance must be true or false, got {balance!r}")
        self.keep = check_fraction("keep", keep, open_low=True)
        self.learnability = check_number("learnability", learnability, low=0)
        self.coverage = check_number("coverage", coverage, low=0)
        self.doubt = check_number("doubt", doubt, low=0, open_low=True)
        self.balance = balance
        self._passes, self._suspicious = 1.0, np.inf
        self._model = LossModel(1)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run; coverage counts in the passes that its compute pays for."""
        self._model = LossModel(context.num_classes)
        self._suspicious = self.doubt * math.log(context.num_classes)
        epochs_flops = context.sample_flops * context.num_samples
        if context.setting == "equal-budget":
            self._passes = context.budget_flops / epochs_flops
        else:
            self._passes = context.epochs * self.keep

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): 1 for the kept samples, 0 for the others."""
        return weights_for_ratio(observation, self.keep, self._pick)

    def learn(self, transition: Transition) -> None:
        """Let the loss model learn from the samples that were trained on."""
        trained = np.flatnonzero(transition.info["trained"])
        if len(trained):
            batch = {name: transition.observation[name][trained] for name in _MODEL_READS}
            self._model.update(batch, np.asarray(transition.info["losses"])[trained])

    def state_dict(self) -> dict[str, Any]:
        """Return what the loss model has learned."""
        return self._model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._model.load_state_dict(state)

    def _pick(self, batch: Mapping[str, Any], k: int, noise: Any) -> npt.NDArray[np.int64]:
        score = self._score(batch) + _gumbel(noise)
        score -= _LAST * (np.asarray(batch["reference_losses"]) > self._suspicious)
        if self.balance:
            # The order within a class is the score's; a class's turn outweighs any sound score.
            score = _turns(score, np.asarray(batch["labels"]))
        return top_k(score, k, noise)

    def _score(self, batch: Mapping[str, Any]) -> Floats:
        learnable = learnability(self._model.predict(batch), batch["reference_losses"])
        unseen = self._passes * np.asarray(batch["age"], dtype=np.float64)
        return np.asarray(self.learnability * learnable + self.coverage * unseen)


def rank_in_class(scores: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return each sample's place (N,) among its class by falling score (N,), from 0."""
    y = np.asarray(labels)
    order = np.lexsort((-np.asarray(scores, dtype=np.float64), y))
    _, first = np.unique(y[order], return_index=True)
    starts = np.zeros(len(y), dtype=np.int64)
    starts[first] = first
    rank = np.empty(len(y), dtype=np.int64)
    rank[order] = np.arange(len(y)) - np.maximum.accumulate(starts)
    return rank


def _turns(scores: Floats, labels: npt.NDArray[Any]) -> Floats:
    suspected = scores < -0.5 * _LAST
    turn = rank_in_class(scores, labels).astype(np.float64)
    return np.asarray(scores - 1e3 * turn - np.where(suspected, _LAST, 0.0))


def _gumbel(noise: npt.ArrayLike) -> Floats:
    """Turn uniforms (N,) in (0, 1) into standard Gumbel noise (N,)."""
    uniform = np.clip(np.asarray(noise, dtype=np.float64), 1e-300, 1 - 1e-16)
    return np.asarray(-np.log(-np.log(uniform)))
