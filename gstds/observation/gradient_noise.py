"""The gradient noise scale: how many samples it takes until their mean gradient is half signal.

Source: McCandlish et al. 2018 (arXiv 1812.06162), section 2.2 and appendix A: the simple noise
scale tr(Σ) / |G|², with G the true gradient and Σ the covariance of one sample's gradient.
"""

from __future__ import annotations

import math

from gstds.common.checks import check_fraction, check_number
from gstds.common.state import Stateful

_DOUBLINGS = 24.0


def noise_share(samples: float) -> float:
    """Return a noise scale in samples as log2(1 + samples) / 24, at most 1: the observation."""
    return min(1.0, math.log2(1.0 + samples) / _DOUBLINGS) if samples < math.inf else 1.0


def noise_samples(share: float) -> float:
    """Return the noise scale in samples that `noise_share` shows as ``share``; 1 is endless."""
    return 2.0 ** (share * _DOUBLINGS) - 1.0 if share < 1.0 else math.inf


class NoiseScale(Stateful):
    """Estimates the noise scale from the gradients that training computes anyway.

    A mean gradient g of B samples has E|g|² = |G|² + tr(Σ) / B, and its product with an average of
    earlier gradients, whose noise is independent of its own, has the expectation |G|². So |g|² less
    the product, times B, estimates tr(Σ). Both are averaged over the steps before their ratio is
    taken, as the source does.

    Args:
        decay: Of the averages over steps, in [0, 1).

    Raises:
        ValueError: If ``decay`` is out of range.

    Attributes:
        samples: The estimate; 0 before anything was measured, infinite where no signal is seen.
    """

    state = ("_signal", "_noise", "_weight")

    def __init__(self, decay: float = 0.95) -> None:
        self.decay = check_fraction("decay", decay, open_high=True)
        self._signal = self._noise = self._weight = 0.0

    def update(self, size: float, square: float, product: float) -> None:
        """Take in a step.

        Args:
            size: B, the samples of the mean gradient.
            square: |g|².
            product: g · m, m an average of earlier gradients.

        Raises:
            ValueError: If ``size`` is not above 0.
        """
        check_number("size", size, low=0, open_low=True)
        if not (math.isfinite(square) and math.isfinite(product)):
            return  # a run that diverges is ended by whoever trains it
        keep = self.decay
        self._signal = keep * self._signal + (1 - keep) * product
        self._noise = keep * self._noise + (1 - keep) * size * (square - product)
        self._weight = keep * self._weight + (1 - keep)

    @property
    def samples(self) -> float:
        """The noise scale in samples."""
        if self._weight == 0.0 or self._noise <= 0.0:
            return 0.0
        return self._noise / self._signal if self._signal > 0.0 else math.inf
