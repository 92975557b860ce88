"""KAKURENBO: hide what is learned with confidence, and look at the hidden again."""

from __future__ import annotations

import numpy as np

from gstds.common.checks import check_number
from gstds.policies.base import RunContext
from gstds.policies.published.history.each_epoch import EachEpoch, Floats
from gstds.selection.weights import check_cross_entropy, label_chances

_FALLS, _PARTS = (0.3, 0.6, 0.8), (1.0, 0.8, 0.6, 0.4)  # of the share, from a progress on
_CONFIDENT, _EDGE = 0.7, 1e-6


class Kakurenbo(EachEpoch):
    """KAKURENBO: of the samples of lowest loss, those known with confidence are hidden.

    When an epoch begins, a share of all samples, those of lowest loss, may be hidden; of them is
    hidden whose label has a probability of at least .7, which is then the predicted one. The share
    falls to .8, .6 and .4 of itself after .3, .6 and .8 of the run, and the step is larger by
    1 / (1 - share), which is the loss weight, after the first epoch. That is the release. Losses
    must be a classification's cross-entropy. Samples never trained on are not hidden.

    Deviates from the authors' release: it forwards the hidden samples alone again, at an epoch's
    end, and in training mode; here a drawn batch is forwarded whole, hidden samples are looked at
    when drawn, and all are charged. There the confidence in CIFAR's script is a softmax over the
    batch, here over the classes, as the paper has it.

    Source: KAKURENBO, NeurIPS 2023; the release TruongThaoNguyen/kakurenbo, v3.1
    Cost: n·f for the learner's forward; f for each hidden sample alone, in the release
    Helps: meant for long runs on clean data
    Hurts: short runs; as charged here it costs more than it saves below a share of a third

    Args:
        share: Largest share of all samples that is hidden, in [0, .9].

    Raises:
        ValueError: If the share is out of range.
    """

    needs = {"indices": {}, "learner_losses": {}}  # noqa: RUF012  (a constant of the class)
    _refreshed = "learner_losses"

    def __init__(self, share: float = 0.3) -> None:
        self.share = check_number("share", share, low=0, high=0.9)
        self.max_weight = 1.0 / (1.0 - self.share)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run.

        Raises:
            ValueError: If it is no classification.
        """
        super().reset(seed, context)
        check_cross_entropy("kakurenbo", context.num_classes)

    def choose(self, losses: Floats, epoch: int, progress: float) -> Floats:
        """Return weights (n,): 0 for the hidden, 1 / (1 - share) for the others."""
        if not epoch:
            return np.ones(len(losses))
        share = self.share * _PARTS[int(np.searchsorted(_FALLS, progress + _EDGE))]
        lowest = np.argsort(losses, kind="stable")[: int(share * len(losses))]  # NaN comes last
        weights = np.full(len(losses), 1.0 / (1.0 - share))
        weights[lowest[label_chances(losses[lowest]) >= _CONFIDENT]] = 0.0
        return weights
