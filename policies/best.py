"""Policy `best`: what the learner last got wrong, at twice the weight, likely wrong labels last."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_fraction, check_number
from gstds.policies.base import Observation, Policy, RunContext, Transition, Weights
from gstds.policies.trust import LabelTrust
from gstds.selection.control import RiseWatch
from gstds.selection.weights import percentiles, weighted_sample, weights_for_ratio

_LAST, _HALVINGS = 1e-9, 3


class Best(Policy):
    """A constant share of each batch, drawn by the error last seen, without likely wrong labels.

    A sample's error is the probability that the learner gave to other classes when it last trained
    on it: 1 - exp(-last loss); and that of a guess, 1 - 1/C, if it was never trained on. That is
    for classification: elsewhere it is the share of the batch's losses that its own reaches, and 1
    before it was trained on, so that none has better odds than the unseen. Samples are drawn
    without replacement, with odds in proportion to (floor + error) times the trust in the label.
    A draw leaves some out: after E epochs up to about (1 - keep)^E of the trusted samples were
    never trained on, 10% after 8 epochs of a quarter; 3% where losses are spread as usual.
    Trust falls from 1 to 0 as the label's chance to be wrong rises from 0 to ``doubt``; those
    without trust come last. How many labels are wrong is estimated from the reference losses, see
    `gstds.selection.control`, which assumes that a wrong one is drawn uniformly. Clean labels
    are not wholly trusted either: mean trust was .974 on clean Fashion-MNIST. Under wrong labels
    the gain is this filter's: a random choice among trusted labels had as much, and full training
    that stops early most of it (docs/results/best.md).

    What is kept trains at the loss weight ``weight``, by default 2, which is a doubled learning
    rate: compare with others at twice the rate. A learner without normalization may not stand it:
    the weight is halved, up to three times, when the training loss rises against this run's own as
    it does when steps are too large, see `gstds.selection.control.RiseWatch`; the first time warns.

    Source: this project; last losses as in InfoBatch, arXiv 2303.04947
    Cost: nothing beside training on the kept samples; the reference's losses are cached
    Helps: at a small budget, as others that go by the last loss do, none of them tuned; uniformly
        wrong labels, by its filter, which random keep could have too
    Hurts: a learning rate that is at its limit already: the loss has to rise before it is lowered;
        doubt, on rare classes: worse than without in 6 of 6 seeds of long-tailed digits

    Args:
        keep: Share of each drawn batch that is kept, in (0, 1].
        floor: Odds of a sample without any error, in units of one with nothing but error, above 0.
        weight: Loss weight of what is kept: what the learning rate is multiplied by, above 0.
        doubt: Chance of a wrong label, in [0, 1], from which on a sample is not trusted; 0 trusts
            all, and needs no reference; above 0 it serves classification alone.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    state = ("_trust", "_watch")
    _classes = 1

    def __init__(
        self, keep: float = 0.25, floor: float = 0.1, weight: float = 2.0, doubt: float = 0.1
    ) -> None:
        self.keep = check_fraction("keep", keep, open_low=True)
        self.floor = check_number("floor", floor, low=0, open_low=True)
        self.weight = check_number("weight", weight, low=0, open_low=True)
        self._trust = LabelTrust("reference" if doubt else "none", doubt)
        self.max_weight, self._watch = max(1.0, self.weight), RiseWatch(1)
        self.needs = self._trust.needs

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run that has seen no batch.

        Raises:
            ValueError: If labels are doubted that are no classes.
        """
        self._trust.begin(context.num_classes, "make_policy('best', doubt=0)")
        self._classes = context.num_classes
        self._watch = RiseWatch(context.num_classes)

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): the weight for the kept samples, 0 for the others."""
        kept = weights_for_ratio(observation, self.keep, self._pick)
        return np.asarray(kept * np.float32(self.weight * 0.5 ** min(self._watch.rises, _HALVINGS)))

    def learn(self, transition: Transition) -> None:
        """Watch the loss, and what the reference says of the labels."""
        trained = np.asarray(transition.info["trained"]) > 0
        rises = self._watch.rises
        self._watch.take(np.asarray(transition.info["losses"])[trained])
        if self._watch.rises > rises == 0:
            warnings.warn(
                "policy 'best': the training loss rises as it does when steps are too large; the "
                f"loss weight, {self.weight:g}, is halved, down to {self.weight / 2**_HALVINGS:g} "
                "if it goes on; a lower learning rate or make_policy('best', weight=1) may serve",
                stacklevel=2,
            )
        self._trust.learn(transition.observation)

    def _pick(self, batch: Mapping[str, Any], k: int, noise: Any) -> npt.NDArray[np.int64]:
        losses = np.asarray(batch["last_losses"], dtype=np.float64)
        unseen = np.asarray(batch["visited"]) < 0.5
        error: npt.NDArray[Any]
        if self._classes > 1:
            error = 1.0 - np.exp(-np.maximum(losses, 0.0))
        else:
            error = percentiles(losses, losses)
        error[unseen] = 1.0 - 1.0 / self._classes if self._classes > 1 else 1.0
        odds = (self.floor + error) * self._trust.of(batch)
        return weighted_sample(np.maximum(odds, _LAST), k, noise)
