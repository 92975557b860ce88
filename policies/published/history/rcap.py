"""RCAP: quotas of the classes, and within each the samples of high loss more often."""

from __future__ import annotations

import math

import numpy as np

from gstds.common.checks import check_fraction, check_number
from gstds.policies.base import RunContext
from gstds.policies.published.history.each_epoch import EachEpoch, Floats
from gstds.selection.weights import check_cross_entropy, weighted_sample


class RCAP(EachEpoch):
    """RCAP: each class has a share of an epoch's samples, drawn by a softmax of their losses.

    When an epoch begins, a sample's importance is the softmax, within its class, of its last loss
    over β, cut at log C, which is also that of samples never trained on. A class's quota goes by
    the root of its size times the importance of what was kept of it the epoch before; none is
    larger than the class. Kept samples weigh 1. That is the release, with its arithmetic where a
    quota is too large. Labels are known once drawn: the first epoch is drawn from all alike, and a
    class of which nothing was kept counts as one of equal losses.

    Its `pruning_rate`, said to be what is removed, is what its code keeps: it is ``keep`` here.

    Source: RCAP, UAI 2025 (PMLR 286); the release datacull 1.0.2
    Cost: nothing beside training on the kept samples
    Helps: rare classes, and the worst class, at a low keep ratio
    Hurts: noisy labels, though losses are cut

    Args:
        keep: Share of all samples that is kept in an epoch, in (0, 1].
        beta: β: small is nearly the highest losses, large nearly uniform.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    _by_class, _highest = True, 0.0

    def __init__(self, keep: float = 0.25, beta: float = 2.0) -> None:
        self.keep = check_fraction("keep", keep, open_low=True)
        self.beta = check_number("beta", beta, low=0, high=1e6, open_low=True)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run.

        Raises:
            ValueError: If it is no classification.
        """
        super().reset(seed, context)
        check_cross_entropy("rcap", context.num_classes)
        self._highest = math.log(context.num_classes)

    def choose(self, losses: Floats, epoch: int, progress: float) -> Floats:
        """Return weights (n,): 1 for those drawn, and for those whose label is not known yet."""
        weights, noise, labels = np.ones(len(losses)), self.noise(epoch), self._samples[:, 1]
        rows = np.flatnonzero(labels >= min(0.0, labels.max()))  # all, while none is known
        labels, kept = np.maximum(labels[rows], 0).astype(np.int64), self._samples[rows, 2] > 0
        scaled = np.clip(np.nan_to_num(losses[rows], nan=np.inf), 0, self._highest) / self.beta
        size = np.bincount(labels).astype(np.float64)
        top = np.zeros(len(size))
        np.maximum.at(top, labels, scaled)
        odds = np.exp(scaled - top[labels])
        odds /= np.bincount(labels, odds)[labels]
        mass = np.bincount(labels, odds * kept)
        quota = quotas(np.where(mass > 0, mass, size > 0), size, math.ceil(self.keep * len(rows)))
        weights[rows] = 0.0
        for label in np.unique(labels):
            own = rows[labels == label]
            drawn = weighted_sample(odds[labels == label], int(quota[label]), noise[own])
            weights[own[drawn]] = 1.0
        return weights


def quotas(mass: Floats, size: Floats, wanted: int) -> Floats:
    """Return how many samples of each class (C,) are kept, as the release counts.

    Args:
        mass: What each class weighs (C,).
        size: Samples of each class (C,).
        wanted: Samples of all; rounding up, and classes that are kept whole, make it others.
    """
    root = np.sqrt(mass * size / size.sum())
    count = root / root.sum() * wanted
    while (count > size).any():
        count = np.minimum(count, size)
        rest = count < size
        count[rest] = root[rest] / root[rest].sum() * wanted
    return np.ceil(count)
