"""InfoBatch: drop a part of what is learned already, and weigh the rest of it up."""

from __future__ import annotations

import numpy as np

from gstds.common.checks import check_fraction, check_number
from gstds.policies.published.history.each_epoch import EachEpoch, Floats, annealed
from gstds.selection.weights import uniform


class InfoBatch(EachEpoch):
    """InfoBatch: of the samples whose last loss is below the mean, a share is dropped.

    Which, is drawn when an epoch begins: an exact share of those below the mean, as in the release.
    The others of them weigh 1 / (1 - rate), and the loss is divided by the number drawn: for given
    losses the expected update is that of the whole batch. Samples never trained on are kept and are
    no part of the mean, so the first epoch is full; so are the epochs that end in the last part of
    training.

    Deviates from the authors' release: what is dropped is missing from the drawn batches, whose
    updates are as many as full training's, and as large; there an epoch has fewer, of full size,
    each larger by as much as they are fewer. Over an epoch both add up to the same.

    Source: InfoBatch, arXiv 2303.04947; the release NUS-HPC-AI-Lab/InfoBatch
    Cost: nothing beside training on the kept samples
    Helps: long runs on clean data, by its authors' results; no reference is needed
    Hurts: short runs: the first epoch and the last eighth are full, so little is saved

    Args:
        rate: Share of the samples below the mean that is dropped, in [0, .9].
        delta: Share of the run beyond which no epoch that ends there drops anything.

    Raises:
        ValueError: If an option is out of range.
    """

    normalizer = "drawn"

    def __init__(self, rate: float = 0.5, delta: float = 0.875) -> None:
        self.rate = check_number("rate", rate, low=0, high=0.9)
        self.delta = check_fraction("delta", delta)
        self.max_weight = 1.0 / (1.0 - self.rate)

    def choose(self, losses: Floats, epoch: int, progress: float) -> Floats:
        """Return weights (n,): 0 for the dropped, 1 / (1 - rate) for the kept below the mean."""
        weights = np.ones(len(losses))
        if not annealed(epoch, progress, self.delta):
            known = losses[~np.isnan(losses)]
            low = np.flatnonzero(losses < known.sum() / max(1, len(known)))
            stay = uniform(int((1.0 - self.rate) * len(low)), self.noise(epoch)[low])
            weights[low] = 0.0
            weights[low[stay]] = self.max_weight
        return weights
