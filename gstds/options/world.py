"""The options of the world: what the environments take, and runs with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gstds.common.checks import check_integer
from gstds.options.fields import Options, option, other_default

__all__ = [
    "BudgetOptions",
    "DataOptions",
    "KeepRatioOptions",
    "LearnerOptions",
    "ReferenceOptions",
    "StepOptions",
    "WorldOptions",
]

_PEAK_RATE = {"sgd": 0.1, "adamw": 2e-3}


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Data."""

    dataset: str = option(
        "digits", "data: a name of `gstds list datasets`, folder:PATH, npz:PATH or module:function"
    )
    limit: int | None = option(None, "number of training samples", low=1)
    label_noise: float = option(
        0.0, "share of wrong training labels", low=0, high=1, open_high=True
    )
    duplicates: float = option(
        0.0, "share of training samples that copy others", low=0, high=1, open_high=True
    )
    imbalance: float = option(
        0.0, "1 - share that the rarest class keeps", low=0, high=1, open_high=True
    )
    split_seed: int = option(0, "seed of the splits, the limit and the three options above")
    clean_validation: bool = option(False, "no label noise on reward-validation")
    augment: bool | None = option(None, "random crops and flips; default: the data's custom")
    image_size: int | None = option(
        None, "side in pixels of images read from files", low=4, high=1024
    )


@dataclass(frozen=True, kw_only=True)
class LearnerOptions(Options):
    """Learner."""

    learner: str = option(
        "small-cnn", "network: a name of `gstds list learners`, or module:function"
    )
    optimizer: str = option("sgd", "sgd (Nesterov momentum) or adamw", choices=tuple(_PEAK_RATE))
    learning_rate: float | None = option(
        None, "peak rate; default .1 (sgd), .002 (adamw)", low=0, high=100, open_low=True
    )
    momentum: float = option(0.9, "momentum of sgd", low=0, high=1, open_high=True)
    weight_decay: float = option(5e-4, "weight decay", low=0, high=10)
    label_smoothing: float = option(0.0, "label smoothing", low=0, high=1, open_high=True)
    on_nan: str = option(
        "stop",
        "a loss or gradient that is not finite: stop the run as diverged, or skip that update",
        choices=("stop", "skip"),
    )
    precision: str = option(
        "auto", "auto, float32 or bfloat16", choices=("auto", "float32", "bfloat16")
    )
    device: str = option("auto", "auto, cpu or cuda")
    cuda_graphs: bool = option(
        True, "on CUDA, replay frequent updates from a recorded graph: same bits, faster"
    )

    @property
    def peak_rate(self) -> float:
        """The learning rate at the start, from which it falls to zero along a cosine."""
        rate = self.learning_rate
        return _PEAK_RATE[self.optimizer] if rate is None else rate


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Options):
    """Batches and budget."""

    batch_size: int = option(128, "samples of a drawn batch", metavar="N", low=1)
    epochs: int = option(
        10, "passes over the data, in the unit of full training", metavar="E", low=1
    )
    setting: str = option(
        "equal-epochs", "equal-epochs or equal-budget", choices=("equal-epochs", "equal-budget")
    )
    budget: float = option(
        0.25,
        "share of full training's compute, for equal-budget",
        metavar="SHARE",
        low=0,
        high=1,
        open_low=True,
    )
    max_draws: int | None = option(None, "drawn batches after which equal-budget is cut off", low=1)
    pack: bool = option(False, "kept samples wait until an update has a whole batch of them")
    evaluations: int | None = option(None, "evaluations in a run; default: one per epoch", low=1)
    shards: int = option(
        1, "parts of the drawn batch that are scored and selected from each by itself"
    )

    def __post_init__(self) -> None:
        """Check the shards by the batch size besides."""
        super().__post_init__()
        check_integer("shards", self.shards, low=1, high=self.batch_size)


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(Options):
    """Reference."""

    reference: str = option(
        "efficientnet-lite0",
        "frozen backbone, a name of `gstds list references`, or checkpoint:PATH",
    )
    compress: str | None = option(
        None, "shorter features: int8, pca-128, random-128, or both as pca-128-int8"
    )
    charge_reference: bool = option(False, "take the reference out of the budget")
    distill: float = option(
        0.0, "share of the training loss that is the divergence from the reference", low=0, high=1
    )
    distill_temperature: float = option(
        1.0, "temperature of that divergence", low=0, high=1e3, open_low=True
    )


@dataclass(frozen=True, kw_only=True)
class WorldOptions(ReferenceOptions, BudgetOptions, LearnerOptions, DataOptions):
    """What environments take and runs pass on to them."""


@dataclass(frozen=True, kw_only=True)
class StepOptions(Options):
    """Environment."""

    observe: Any = option(
        None,
        "optional observations, by name or name -> options; default: spectral scores and "
        "reference losses",
    )
    w_max: float = option(
        1.0, "largest weight that an action may hold", low=0, high=1e6, open_low=True
    )
    normalizer: str = option(
        "kept",
        "the weighted loss is divided by the number of samples kept or drawn",
        choices=("kept", "drawn"),
    )
    drop_below: float = option(0.0, "weights below this are taken as 0", low=0, high=1e6)
    reward: str = option("validation-loss", "a name of gstds.envs.task.rewards.AGENT_REWARDS")
    price: float = option(0.1, "nats that a whole budget costs", low=0, high=1e6)
    seed: int | None = option(None, "seed of the first reset that is not given one")


@dataclass(frozen=True, kw_only=True)
class KeepRatioOptions(StepOptions, WorldOptions):
    """Keep ratio."""

    action: str = option("discrete", "discrete or box", choices=("discrete", "box"))
    ratios: tuple[float, ...] | None = option(
        None, "keep ratios that a discrete action chooses from", metavar="R"
    )
    interval: int = option(4, "drawn batches between decisions", low=1)
    picker: str = option("hybrid", "hybrid, uniform or learnability")
    instances: Any = option(
        None, "runs to draw from: a set's name, or mappings of options; default: these options"
    )
    centered: bool = option(False, "reward what is better than random keep", flag=True)
    control_keep: float = option(0.5, "keep ratio of that control", low=0, high=1, open_low=True)
    target_accuracy: float = option(0.7, "accuracy that time-to-accuracy is the time to")
    setting: str = other_default(BudgetOptions, "setting", "equal-budget")
    epochs: int = other_default(BudgetOptions, "epochs", 8)
    observe: Any = other_default(StepOptions, "observe", ())
