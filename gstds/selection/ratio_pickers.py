"""Which samples of a batch an agent keeps once it has said how many: a picker and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice
from gstds.selection.sampling import softmax_sample
from gstds.selection.weights import hybrid, learnability, uniform

__all__ = ["RATIO_PICKERS", "RatioPicker", "ratio_picker"]

Positions = npt.NDArray[np.int64]


class _Pick(Protocol):
    def __call__(self, batch: Mapping[str, Any], k: int, noise: Any) -> Positions: ...


@dataclass(frozen=True)
class RatioPicker:
    """A picker for `gstds.selection.weights.weights_for_ratio`.

    Attributes:
        name: Its name.
        pick: Observation's rows, count, noise -> positions (k,).
        observe: Optional observations that it reads, name -> options.
        text: What it does, in a line.
    """

    name: str
    pick: _Pick
    text: str
    observe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __call__(self, batch: Mapping[str, Any], k: int, noise: Any) -> Positions:
        """Return k positions among the batch's rows."""
        return self.pick(batch, k, noise)


def _hybrid(batch: Mapping[str, Any], k: int, noise: Any) -> Positions:
    scores = np.abs(np.asarray(batch["spectral_scores"], dtype=np.float64))
    return hybrid(scores, batch["reference_losses"], k, noise)


def _uniform(batch: Mapping[str, Any], k: int, noise: Any) -> Positions:
    return uniform(k, noise)


def _learnability(batch: Mapping[str, Any], k: int, noise: Any) -> Positions:
    scores = learnability(batch["last_losses"], batch["reference_losses"])
    return softmax_sample(scores, k, noise)


RATIO_PICKERS: dict[str, RatioPicker] = {
    picker.name: picker
    for picker in (
        RatioPicker(
            "hybrid",
            _hybrid,
            "half by Fiedler score, half by reference loss (the paper's)",
            {"spectral_scores": {}, "reference_losses": {}},
        ),
        RatioPicker("uniform", _uniform, "a uniform random share"),
        RatioPicker(
            "learnability",
            _learnability,
            "drawn by the softmax of last loss minus reference loss",
            {"reference_losses": {}},
        ),
    )
}


def ratio_picker(name: str) -> RatioPicker:
    """Return a picker by name.

    Raises:
        ValueError: If the name is unknown; the message lists the near ones.
    """
    return RATIO_PICKERS[check_choice("picker", name, RATIO_PICKERS)]
