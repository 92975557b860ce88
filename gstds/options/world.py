"""The options of the world: what the environments take, and runs with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gstds.common.checks import check_integer
from gstds.options.fields import Options, option, other_default

_PEAK_RATE = {"sgd": 0.1, "adamw": 2e-3}


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Data."""

    dataset: str = option(
        "digits", "data: a name of `gstds list datasets`, folder:PATH, npz:PATH or module:function"
    )
    limit: int | None = option(None, "number of training samples", "[1, inf)")
    label_noise: float = option(0.0, "share of wrong training labels", "[0, 1)")
    duplicates: float = option(0.0, "share of training samples that copy others", "[0, 1)")
    imbalance: float = option(0.0, "1 - share that the rarest class keeps", "[0, 1)")
    split_seed: int = option(0, "seed of the splits, the limit and the three options above")
    clean_validation: bool = option(False, "no label noise on reward-validation")
    augment: bool | None = option(None, "random crops and flips; default: the data's custom")
    image_size: int | None = option(None, "side in pixels of images read from files", "[4, 1024]")


@dataclass(frozen=True, kw_only=True)
class LearnerOptions(Options):
    """Learner."""

    learner: str = option(
        "small-cnn", "network: a name of `gstds list learners`, or module:function"
    )
    optimizer: str = option("sgd", "sgd (Nesterov momentum) or adamw", tuple(_PEAK_RATE))
    learning_rate: float | None = option(
        None, "peak rate; default .1 (sgd), .002 (adamw)", "(0, 100]"
    )
    momentum: float = option(0.9, "momentum of sgd", "[0, 1)")
    weight_decay: float = option(5e-4, "weight decay", "[0, 10]")
    label_smoothing: float = option(0.0, "label smoothing", "[0, 1)")
    on_nan: str = option(
        "stop",
        "a loss or gradient that is not finite: stop the run as diverged, or skip that update",
        ("stop", "skip"),
    )
    precision: str = option("auto", "auto, float32 or bfloat16", ("auto", "float32", "bfloat16"))
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

    batch_size: int = option(128, "samples of a drawn batch", "[1, inf)", metavar="N")
    epochs: int = option(
        10, "passes over the data, in the unit of full training", "[1, inf)", metavar="E"
    )
    setting: str = option(
        "equal-epochs", "equal-epochs or equal-budget", ("equal-epochs", "equal-budget")
    )
    budget: float = option(
        0.25, "share of full training's compute, for equal-budget", "(0, 1]", metavar="SHARE"
    )
    max_draws: int | None = option(
        None, "drawn batches after which equal-budget is cut off", "[1, inf)"
    )
    pack: bool = option(False, "kept samples wait until an update has a whole batch of them")
    evaluations: int | None = option(
        None, "evaluations in a run; default: one per epoch", "[1, inf)"
    )
    shards: int = option(
        1, "parts of the drawn batch that are scored and selected from each by itself", "[1, inf)"
    )

    def __post_init__(self) -> None:
        """Check the shards by the batch size, if that can be one, and each by itself."""
        if isinstance(self.batch_size, int) and self.batch_size > 0:
            check_integer("shards", self.shards, low=1, high=self.batch_size)
        super().__post_init__()


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
        0.0, "share of the training loss that is the divergence from the reference", "[0, 1]"
    )
    distill_temperature: float = option(1.0, "temperature of that divergence", "(0, 1000]")


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
    w_max: float = option(1.0, "largest weight that an action may hold", "(0, 1e+06]")
    normalizer: str = option(
        "kept",
        "the weighted loss is divided by the number of samples kept or drawn",
        ("kept", "drawn"),
    )
    drop_below: float = option(0.0, "weights below this are taken as 0", "[0, 1e+06]")
    reward: str = option("validation-loss", "a name of gstds.envs.task.rewards.AGENT_REWARDS")
    price: float = option(0.1, "nats that a whole budget costs", "[0, 1e+06]")
    seed: int | None = option(None, "seed of the first reset that is not given one")


@dataclass(frozen=True, kw_only=True)
class KeepRatioOptions(StepOptions, WorldOptions):
    """Keep ratio."""

    action: str = option("discrete", "discrete or box", ("discrete", "box"))
    ratios: tuple[float, ...] | None = option(
        None, "keep ratios that a discrete action chooses from", metavar="R"
    )
    interval: int = option(4, "drawn batches between decisions", "[1, inf)")
    picker: str = option(
        "hybrid", "hybrid, uniform or learnability", ("hybrid", "uniform", "learnability")
    )
    instances: Any = option(
        None, "runs to draw from: a set's name, or mappings of options; default: these options"
    )
    centered: bool = option(False, "reward what is better than random keep", flag=True)
    control_keep: float = option(0.5, "keep ratio of that control", "(0, 1]")
    target_accuracy: float = option(0.7, "accuracy that time-to-accuracy is the time to")
    setting: str = other_default(BudgetOptions, "setting", "equal-budget")
    epochs: int = other_default(BudgetOptions, "epochs", 8)
    observe: Any = other_default(StepOptions, "observe", ())
