"""What a run shows, as numbers that a policy decides by: pure functions, and two that watch.

How many labels are wrong is read off cross-fitted reference losses alone. A model that is fitted to
labels of which a share is wrong, each wrong one a uniformly drawn class, cannot be sure of any: it
gives the label of an easy sample at most one minus that share. So the losses of the samples that it
is surest of say how large the share is, and Bayes' rule then says how likely each label is to be
one of the wrong ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from gstds.common.checks import check_choice, check_fraction, check_integer
from gstds.common.state import Stateful
from gstds.selection.weights import valid_batch

Floats = npt.NDArray[np.floating[Any]]

_SUREST = 0.1


def check_range(low: float, high: float) -> tuple[float, float]:
    """Return the lowest and the highest keep ratio, both in (0, 1].

    Raises:
        TypeError: If one is no number.
        ValueError: If one is out of range, or ``low`` is above ``high``.
    """
    low = check_fraction("low", low, open_low=True)
    high = check_fraction("high", high, open_low=True)
    if low > high:
        raise ValueError(f"low must be at most high, got low={low:g}, high={high:g}")
    return low, high


def between(value: float, low: float, high: float) -> float:
    """Return the value, or the nearer bound; NaN is the lower."""
    return min(high, max(low, value)) if value == value else low


def gap_ratio(
    train_loss: float, validation_loss: float, gap: float, low: float, high: float
) -> float:
    """Return low + (high - low) · clip((V - T) / (gap · |V|), 0, 1).

    Args:
        train_loss: T.
        validation_loss: V, in the same unit; without a size there is no gap.
        gap: The share of |V| by which T must lie below it for ``high``.
        low: Keep ratio without a gap.
        high: Keep ratio at that gap.
    """
    wanted = gap * abs(validation_loss)
    if wanted <= 0.0:
        return low
    relative = (validation_loss - train_loss) / wanted
    return low + (high - low) * between(relative, 0.0, 1.0)


def noise_ratio(samples: float, drawn: int, multiple: float, low: float, high: float) -> float:
    """Return multiple · samples / drawn, bounded: the kept batch is the noise scale's multiple.

    Args:
        samples: The gradient noise scale in samples, infinite if there is no signal.
        drawn: N, the samples of a drawn batch.
        multiple: Kept samples for each sample of the noise scale.
        low: Lowest keep ratio.
        high: Highest.
    """
    return between(multiple * samples / drawn, low, high)


def spread_ratio(
    left: float, per_sample: float, samples: float, overhead: float, low: float, high: float
) -> float:
    """Return the keep ratio that, held to the end, spends what is left and no more.

    Args:
        left: Operations that may still be spent.
        per_sample: Operations of training on one sample.
        samples: Samples still to be drawn, those of this batch included.
        overhead: Operations still to be charged for anything but training.
        low: Lowest keep ratio.
        high: Highest; also what is kept when no more samples are expected.
    """
    if samples <= 0:
        return high
    return between((left - overhead) / (per_sample * samples), low, high)


class PlateauWatch(Stateful):
    """Says when a loss has stopped falling: window by window, the second half against the first.

    Means over half a window smooth the loss. A window begins anew after each answer, so that a
    change made on a plateau is never judged by losses from before it.

    Args:
        window: Steps of a window, at least 2.
        threshold: The share of the first half's mean by which the second must be lower.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.
    """

    state = ("_sums", "_seen")

    def __init__(self, window: int, threshold: float) -> None:
        self.window = check_integer("window", window, low=2)
        self.threshold = check_fraction("threshold", threshold, open_high=True)
        self._sums, self._seen = [0.0, 0.0], 0

    def stalled(self, loss: float) -> bool:
        """Take in a step's loss; at a window's end, say whether it has stopped falling."""
        half = self.window // 2
        if not math.isfinite(loss):
            return False
        self._seen += 1
        if self._seen <= half:
            self._sums[0] += loss / half
        elif self._seen > self.window - half:  # the middle of an odd window belongs to neither
            self._sums[1] += loss / half
        if self._seen < self.window:
            return False
        before, now = self._sums
        self._sums, self._seen = [0.0, 0.0], 0
        return now > before - self.threshold * abs(before)


class RiseWatch(Stateful):
    """Counts how often a training loss has risen as it does when the steps are too large.

    The unit is what the run's first batch told: its mean, and the mean size s of its losses. In a
    classification the mean and s are at least log C, what a learner has that knows nothing: one
    that begins well has small losses, which fluctuate.

    A loss has risen if a batch of at least 8 samples has a mean above the first by half of s and
    by three of its own standard errors. Or if the mean over samples, with weights that fall by 1/32
    a batch, is above the least it has been by 35% of that and by a tenth of s: neither small losses
    that fluctuate nor a few hard samples count. After each rise the watch begins anew, and for 8
    batches only looks on.

    Args:
        classes: C; 1 if it is no classification.
    """

    state = ("rises", "_loss", "_count", "_batches", "_least", "_first")
    RATIO, SHARE, BATCHES = 0.35, 0.1, 32
    WRONG, SAMPLES, PAUSE, ERRORS = 0.5, 8, 8, 3.0

    def __init__(self, classes: int) -> None:
        self._log_classes = math.log(classes) if classes > 1 else -math.inf
        self.rises = 0
        self._first: list[float] = []  # mean and size
        self._begin()

    def _begin(self) -> None:
        self._loss = self._count = 0.0
        self._batches = 0
        self._least: float | None = None

    def take(self, losses: ArrayLike) -> None:
        """Take in the losses (k,) of a batch's samples that were trained on; k may be 0."""
        values = np.asarray(losses, dtype=np.float64)
        if len(values) == 0 or not np.isfinite(values).all():
            return
        mean, size = float(values.mean()), float(np.abs(values).mean())
        if not (self._first or size):
            return  # losses of 0 have no size that others could be measured by
        self._first = self._first or [max(one, self._log_classes) for one in (mean, size)]
        fade = 1.0 - 1.0 / self.BATCHES
        self._loss = fade * self._loss + float(values.sum())
        self._count = fade * self._count + len(values)
        self._batches += 1
        error = self.ERRORS * float(values.std()) / math.sqrt(len(values))
        above = mean - self._first[0]
        wrong = len(values) >= self.SAMPLES and above > max(self.WRONG * self._first[1], error)
        after_rise = self.rises > 0 and self._batches <= self.PAUSE
        if (wrong and not after_rise) or self._smoothly_risen():
            self.rises += 1
            self._begin()

    def _smoothly_risen(self) -> bool:
        if self._batches < self.BATCHES:
            return False
        mean = self._loss / self._count
        self._least = mean if self._least is None else min(self._least, mean)
        return mean - self._least > max(self.RATIO * abs(self._least), self.SHARE * self._first[1])


def least_loss(reference_losses: ArrayLike) -> float:
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


def wrong_label_chances(reference_losses: ArrayLike, share: float, classes: int) -> Floats:
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


def _checked(reference_losses: ArrayLike) -> Floats:
    losses = np.asarray(reference_losses, dtype=np.float64)
    if not np.isfinite(losses).all() or (losses < 0).any():
        raise ValueError("reference_losses must be finite and at least 0")
    return losses


TRUSTS = ("reference", "agreement", "none")
"""What a label is trusted by."""


class LabelTrust(Stateful):
    """How far labels are trusted, by the cross-fitted losses of the reference.

    ``reference``: trust falls from 1 to 0 as the label's chance to be wrong rises from 0 to
    ``doubt``, see above; how many are wrong is estimated, and a wrong one taken
    for uniformly drawn. ``agreement``: 1 where the reference gives the label at least half, so that
    no class has more, else 0; nothing is assumed of the wrong ones.

    Args:
        kind: One of `TRUSTS`; ``none`` trusts all.
        doubt: Chance of a wrong label, in [0, 1], from which on a sample is not trusted.
    """

    state = ("_batches", "_surest")
    _classes, _batches, _surest = 1, 0, 0.0

    def __init__(self, kind: str = "reference", doubt: float = 0.1) -> None:
        self.kind, self.doubt = check_choice("trust", kind, TRUSTS), check_fraction("doubt", doubt)
        self.needs = {} if kind == "none" else {"reference_losses": dict[str, Any]()}

    def begin(self, classes: int, mend: str) -> None:
        """Begin a run that has seen no batch.

        Raises:
            ValueError: If labels are doubted that are no classes; ``mend`` says what else to do.
        """
        if self.needs and classes < 2:
            raise ValueError(
                f"doubt={self.doubt:g} weighs the chance of a wrong class, and num_classes is "
                f"{classes}; pass num_classes=, or {mend}"
            )
        self._classes, self._batches, self._surest = classes, 0, 0.0

    def of(self, batch: Mapping[str, Any]) -> Floats:
        """Return the trust (n,) in [0, 1] in the labels of a batch of valid samples."""
        if not self.needs:
            return np.ones(len(batch["valid"]))
        losses = np.asarray(batch["reference_losses"])
        if self.kind == "agreement":
            return np.asarray(losses <= math.log(2.0), dtype=np.float64)
        share = wrong_label_share(self._mean_surest(losses))
        chances = wrong_label_chances(losses, share, self._classes)
        return np.asarray(np.maximum(0.0, 1.0 - chances / self.doubt))

    def learn(self, observation: Mapping[str, Any]) -> None:
        """Remember how sure the reference was of the batch's surest samples."""
        if self.kind == "reference":
            _, batch = valid_batch(observation)
            self._surest = self._mean_surest(batch["reference_losses"])
            self._batches += 1

    def _mean_surest(self, losses: npt.ArrayLike) -> float:
        """Return the mean of `least_loss` over the batches so far and this one."""
        return (self._batches * self._surest + least_loss(losses)) / (self._batches + 1)
