"""How many labels are wrong, and which: read off cross-fitted reference losses alone.

A model that is fitted to labels of which a share is wrong, each wrong one a uniformly drawn class,
cannot be sure of any: it gives the label of an easy sample at most one minus that share. So the
losses of the samples that it is surest of say how large the share is, and Bayes' rule then says how
likely each label is to be one of the wrong ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_fraction, check_integer

Floats = npt.NDArray[np.floating[Any]]

_SUREST = 0.1


def least_loss(reference_losses: npt.ArrayLike) -> float:
    """Return the loss in nats that a tenth of the samples (N,), the surest, stay below.

    Raises:
        ValueError: If there are no samples, or a loss is negative or not finite.
    """
    losses = _checked(reference_losses)
    if len(losses) == 0:
        raise ValueError("reference_losses must hold at least one loss, got none")
    return float(np.quantile(losses, _SUREST))


def wrong_label_share(surest: float) -> float:
    """Return the share of wrong labels in [0, 1) for what `least_loss` returned, or a mean of it.

    It is low rather than high where the reference is weak; clean data give at most about .01.
    """
    return 1.0 - math.exp(-max(0.0, surest))


def wrong_label_chances(reference_losses: npt.ArrayLike, share: float, classes: int) -> Floats:
    """Return each label's chance (N,) in [0, 1] to be one of the wrong ones.

    The reference gives a label the probability exp(-loss), of which share / classes is what a
    wrong label would get; Bayes' rule divides the two.

    Args:
        reference_losses: Cross-fitted losses (N,) in nats.
        share: Share of wrong labels, in [0, 1].
        classes: Number of classes.

    Raises:
        ValueError: If an argument is out of range, or a loss is negative or not finite.
    """
    share = check_fraction("share", share)
    classes = check_integer("classes", classes, low=1)
    log_odds = _checked(reference_losses) + math.log(max(share, 1e-300) / classes)
    return np.asarray(np.exp(np.minimum(log_odds, 0.0)) * (share > 0))


def _checked(reference_losses: npt.ArrayLike) -> Floats:
    losses = np.asarray(reference_losses, dtype=np.float64)
    if not np.isfinite(losses).all() or (losses < 0).any():
        raise ValueError("reference_losses must be finite and at least 0")
    return losses
