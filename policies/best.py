"""The best policy found here: few samples a step, those still learnable, wrong labels last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.selection import learnability, top_k, weights_for_ratio
from gstds.validation import check_fraction, check_number
from policies.base import Observation, Policy, Weights

__all__ = ["Best"]

Floats = npt.NDArray[np.float64]


class Best(Policy):
    """Stale learnability with noise, at a small constant keep ratio.

    Each sample's score is the learner's loss when it was last trained on, minus the reference's, in
    units of the temperature, plus Gumbel noise; the highest are kept. So the kept ones are a draw
    without replacement in proportion to exp(learnability / temperature). Samples that the
    reference finds less likely than ``doubt`` are suspected of a wrong label and kept last.

    Args:
        keep: Share of each drawn batch that is kept, in (0, 1].
        temperature: Nats of learnability that weigh as much as one unit of noise; above 0.
        doubt: Reference loss in nats above which a label is suspected; above 0.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range.
    """

    source = "this project; learnability from arXiv 2206.07137, last losses from arXiv 2303.04947"
    cost = "nothing"
    helps = "at a small budget, where it trades large batches for many updates; wrong labels"
    hurts = "wall clock: many small updates use a processor worse than few large ones"
    needs = {"reference_losses": {}}  # noqa: RUF012  (a constant of the class)

    def __init__(self, keep: float = 0.25, temperature: float = 1.0, doubt: float = 4.0) -> None:
        self.keep = check_fraction("keep", keep, open_low=True)
        self.temperature = check_number("temperature", temperature, low=0, open_low=True)
        self.doubt = check_number("doubt", doubt, low=0, open_low=True)

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): 1 for the kept samples, 0 for the others."""
        return weights_for_ratio(observation, self.keep, self._pick)

    def _pick(self, batch: Mapping[str, Any], k: int, noise: Any) -> npt.NDArray[np.int64]:
        scores = learnability(batch["last_losses"], batch["reference_losses"]) / self.temperature
        suspected = np.asarray(batch["reference_losses"]) > self.doubt
        return top_k(scores + _gumbel(noise) - np.where(suspected, 1e6, 0.0), k, noise)


def _gumbel(noise: npt.ArrayLike) -> Floats:
    """Turn uniforms (N,) in (0, 1) into standard Gumbel noise (N,)."""
    uniform = np.clip(np.asarray(noise, dtype=np.float64), 1e-300, 1 - 1e-16)
    return np.asarray(-np.log(-np.log(uniform)))
