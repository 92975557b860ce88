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

SUMMARY_NAMES = (
    "progress",
    "budget_left",
    "budget_batches",
    "keep_ratio",
    "train_loss",
    "mean_last_loss",
    "train_loss_drop",
    "mean_last_loss_drop",
    "visited",
    "mean_age",
    "loss_spread",
    "learnability_low",
    "learnability_middle",
    "learnability_high",
    "eigengap",
    "effective_nodes",
    "validation_loss",
)
"""The scalars by position."""

_SIGNED = ("drop", "learnability")
SUMMARY_LOW: Array = np.array(
    [-1.0 if any(word in name for word in _SIGNED) else 0.0 for name in SUMMARY_NAMES], np.float32
)
SUMMARY_HIGH: Array = np.ones(len(SUMMARY_NAMES), dtype=np.float32)

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
        """Return the facts of a run's context, as the environment gives it.

        Raises:
            ValueError: If the run is no classification.
        """
        if context["num_classes"] < 2:
            raise ValueError(
                f"num_classes is {context['num_classes']}: an agent sees losses in units of log C, "
                "so it serves classification alone; pass num_classes=, or take another policy"
            )
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
    shown = ("progress", "budget_left", "keep_ratio", "eigengap", "effective_nodes")
    losses = ("train_loss", "mean_last_loss", "validation_loss")
    values = {name: _scalar(observation, name) for name in shown}
    values |= {name: _scalar(observation, name) / (2 * unit) for name in losses}
    values |= {
        f"{name}_drop": (then - loss) / unit
        for name, then, loss in zip(losses[:2], before, now, strict=True)
    }
    values["budget_batches"] = math.log2(1.0 + facts.budget_batches) / _MOST_DOUBLINGS
    values |= _batch_values(observation, unit)
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
    last, seen, age = (
        np.asarray(observation[name], dtype=np.float64)[rows]
        for name in ("last_losses", "visited", "age")
    )
    values = {
        "visited": float(np.mean(seen)),
        "mean_age": float(np.mean(age)),
        "loss_spread": float(last.std()) / unit,
    }
    if "reference_losses" in observation:
        reference = np.asarray(observation["reference_losses"], dtype=np.float64)[rows]
        names = ("learnability_low", "learnability_middle", "learnability_high")
        values |= zip(names, np.quantile((last - reference) / unit, _QUANTILES), strict=True)
    return values
