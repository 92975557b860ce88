"""SeTa: a window of difficulty that slides from easy to hard, epoch by epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_fraction, check_integer, check_number
from gstds.policies.published.history.each_epoch import EachEpoch, Floats, annealed
from gstds.selection.weights import uniform


class SeTa(EachEpoch):
    """SeTa: a random share of all samples, and of it the groups within a window of difficulty.

    When an epoch begins, ``prune`` of all samples are left out at random; the others are grouped by
    last loss (k-means), and a window over the groups, ordered from easy to hard, slides by one
    group an epoch, over and over. The first epoch takes all groups, and so do those that end in the
    last part of the run (partial annealing). Kept samples weigh 1. That is the release.

    Deviates from the authors' release: k-means there begins at random centers, here at quantiles;
    a sample never trained on counts there as one of loss 3, here as one of the mean loss.

    Source: SeTa, arXiv 2503.13385; the release mrazhou/SeTa, defaults of its CIFAR script
    Cost: nothing beside training on the kept samples
    Helps: large data with much that is easy or out of reach, by its authors' results
    Hurts: few epochs: the window has to slide

    Args:
        prune: Share of all samples that is left out at random, in [0, .9].
        groups: Groups by loss.
        window: Share of the groups that the window takes in, in (0, 1].
        delta: Share of the run beyond which an epoch that ends there takes all groups.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    def __init__(
        self, prune: float = 0.1, groups: int = 5, window: float = 0.9, delta: float = 0.875
    ) -> None:
        self.prune = check_number("prune", prune, low=0, high=0.9)
        self.groups = check_integer("groups", groups, low=1, high=1000)
        self.window = check_fraction("window", window, open_low=True)
        self.delta = check_fraction("delta", delta)

    def choose(self, losses: Floats, epoch: int, progress: float) -> Floats:
        """Return weights (n,): 1 for the random share within the window, 0 for the others."""
        rows = uniform(int((1.0 - self.prune) * len(losses)), self.noise(epoch))
        if epoch and not annealed(epoch, progress, self.delta) and not np.isnan(losses).all():
            scores = np.where(np.isnan(losses), np.nanmean(losses), losses)[rows]
            size = max(1, round(self.groups * self.window))
            start = epoch % (self.groups - size + 1)
            group = ordered_groups(scores, self.groups)
            rows = rows[(group >= start) & (group < start + size)]
        weights = np.zeros(len(losses))
        weights[rows] = 1.0
        return weights


def ordered_groups(values: Floats, groups: int) -> npt.NDArray[np.int64]:
    """Return the group (n,) of each value by k-means, numbered from low to high.

    Lloyd's steps from the middle of each of as many quantiles, until none changes.
    """
    centers = np.quantile(values, (np.arange(groups) + 0.5) / groups)
    for _ in range(100):
        group = np.searchsorted((centers[1:] + centers[:-1]) / 2, values)
        counts = np.bincount(group, minlength=groups)
        sums = np.bincount(group, weights=values, minlength=groups)
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centers)
        if (moved == centers).all():
            break
        centers = np.sort(moved)
    return group
