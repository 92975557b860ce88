"""A run's state as about a dozen bounded scalars: what an agent that sets the keep ratio sees.

The environment and the policies that learn use this one implementation, so that an agent sees in a
run what it saw in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_integer, check_number

Array = npt.NDArray[np.float32]

_BOUNDS: dict[str, float] = {
    "progress": 0.0,
    "budget_left": 0.0,
    "budget_batches": 0.0,
    "keep_ratio": 0.0,
    "train_loss": 0.0,
    "mean_last_loss": 0.0,
    "train_loss_drop": -1.0,
    "mean_last_loss_drop": -1.0,
    "visited": 0.0,
    "mean_age": 0.0,
    "loss_spread": 0.0,
    "learnability_low": -1.0,
    "learnability_middle": -1.0,
    "learnability_high": -1.0,
    "eigengap": 0.0,
    "effective_nodes": 0.0,
    "validation_loss": 0.0,
}
SUMMARY_NAMES: tuple[str, ...] = tuple(_BOUNDS)
"""The scalars by position."""

SUMMARY_LOW: Array = np.array(list(_BOUNDS.values()), dtype=np.float32)
SUMMARY_HIGH: Array = np.ones(len(_BOUNDS), dtype=np.float32)

_QUANTILES = (0.1, 0.5, 0.9)
_MOST_DOUBLINGS = 16.0


@dataclass(frozen=True)
class RunFacts:
    """What does not change while a run goes on.

    Args:
        classes: Number of classes C; losses are shown in units of log C, a guess's loss.
        budget_batches: How many whole drawn batches the budget pays for.

    Raises:
        TypeError: If a number is none.
        ValueError: If ``classes`` is below 1 or ``budget_batches`` is not above 0.
    """

    classes: int
    budget_batches: float

    def __post_init__(self) -> None:
        """Check the facts."""
        check_integer("classes", self.classes, low=1)
        check_number("budget_batches", self.budget_batches, low=0, open_low=True)

    @classmethod
    def from_context(cls, context: Mapping[str, Any]) -> RunFacts:
        """Return the facts of a run's context, as the environment gives it."""
        batch = context["sample_flops"] * context["batch_size"]
        return cls(int(context["num_classes"]), float(context["budget_flops"] / batch))


class Trend(NamedTuple):
    """The losses in nats at the decision before, against which the next one's are held."""

    train_loss: float
    mean_last_loss: float

    @classmethod
    def of(cls, observation: Mapping[str, Any]) -> Trend:
        """Return an observation's losses."""
        return cls(_scalar(observation, "train_loss"), _scalar(observation, "mean_last_loss"))


def summarize(
    observation: Mapping[str, Any], facts: RunFacts, before: Sequence[float] | None = None
) -> Array:
    """Return the scalars of `SUMMARY_NAMES` (S,), each within its bounds.

    Losses are in units of 2 log C and clipped to [0, 1], drops and learnability in units of log C
    and clipped to [-1, 1]. What is not observed is 0: without reference losses the learnability,
    without spectral scores the eigengap and the effective nodes.

    Args:
        observation: The environment's, of one drawn batch.
        facts: What does not change while the run goes on.
        before: A `Trend`, the losses at the decision before; None at the first, where the drops
            are 0.
    """
    unit = max(math.log(facts.classes), 1e-6)
    now = Trend.of(observation)
    before = Trend(*before) if before else now
    values = {
        "progress": _scalar(observation, "progress"),
        "budget_left": _scalar(observation, "budget_left"),
        "budget_batches": math.log2(1.0 + facts.budget_batches) / _MOST_DOUBLINGS,
        "keep_ratio": _scalar(observation, "keep_ratio"),
        "train_loss": now.train_loss / (2 * unit),
        "mean_last_loss": now.mean_last_loss / (2 * unit),
        "train_loss_drop": (before.train_loss - now.train_loss) / unit,
        "mean_last_loss_drop": (before.mean_last_loss - now.mean_last_loss) / unit,
        "eigengap": _scalar(observation, "eigengap"),
        "effective_nodes": _scalar(observation, "effective_nodes"),
        "validation_loss": _scalar(observation, "validation_loss") / (2 * unit),
    } | _batch_values(observation, unit)
    raw = np.array([values.get(name, 0.0) for name in SUMMARY_NAMES], dtype=np.float32)
    bounded: Array = np.clip(np.nan_to_num(raw), SUMMARY_LOW, SUMMARY_HIGH)
    return bounded


def _scalar(observation: Mapping[str, Any], name: str) -> float:
    return float(observation[name][0]) if name in observation else 0.0


def _batch_values(observation: Mapping[str, Any], unit: float) -> dict[str, float]:
    """Return what the valid samples of the drawn batch say; nothing of an empty batch."""
    rows = np.asarray(observation["valid"]) > 0.5
    if not rows.any():
        return {}
    last = np.asarray(observation["last_losses"], dtype=np.float64)[rows]
    values = {
        "visited": float(np.mean(np.asarray(observation["visited"], dtype=np.float64)[rows])),
        "mean_age": float(np.mean(np.asarray(observation["age"], dtype=np.float64)[rows])),
        "loss_spread": float(last.std()) / unit,
    }
    if "reference_losses" in observation:
        reference = np.asarray(observation["reference_losses"], dtype=np.float64)[rows]
        low, middle, high = np.quantile((last - reference) / unit, _QUANTILES)
        values |= {
            "learnability_low": float(low),
            "learnability_middle": float(middle),
            "learnability_high": float(high),
        }
    return values
