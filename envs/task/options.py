"""The options of an environment, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from gstds.common.checks import (
    check_choice,
    check_fraction,
    check_integer,
    check_number,
    near_names,
)
from gstds.envs.learner.learner import LearnerOptions
from gstds.envs.task.rewards import REWARDS
from gstds.observation.spec import check_observe
from gstds.store.compression import parse_compression

__all__ = [
    "EnvOptions",
    "normalize_observe",
]

SETTINGS = ("equal-epochs", "equal-budget")
NORMALIZERS = ("kept", "drawn")

DEFAULT_OBSERVE = ("spectral_scores", "reference_losses")


def normalize_observe(
    observe: Sequence[str] | Mapping[str, Mapping[str, Any] | None] | None,
) -> dict[str, dict[str, Any]]:
    """Return the optional observations as name -> options, in a fixed order.

    Args:
        observe: Names, or names with options; None is spectral scores and reference losses.

    Raises:
        ValueError: If a name or an option is unknown.
    """
    if observe is None:
        observe = DEFAULT_OBSERVE
    if isinstance(observe, str):
        observe = (observe,)
    given = dict(observe) if isinstance(observe, Mapping) else dict.fromkeys(observe)
    return check_observe("observe", given)


@dataclass(frozen=True)
class EnvOptions:
    """Keyword arguments of the environments; each is the command line's option of that name.

    Args:
        dataset: ``digits``, ``fashion-mnist``, ``cifar10``, ..., ``folder:PATH``, ``npz:PATH`` or
            ``module:function``.
        limit: Number of training samples, None for all.
        label_noise: Share of wrong training labels in [0, 1).
        duplicates: Share of training samples that are copies of others in [0, 1).
        imbalance: 0 for balanced; the rarest class keeps a share of 1 - imbalance.
        split_seed: Seed of the splits, of the limit and of the three options above.
        clean_validation: Leave the reward-validation labels without noise.
        augment: Random crops and flips: True, False, or None for the data set's custom.
        image_size: Side in pixels for images read from files.
        learner: ``small-cnn``, ``resnet18``, ``resnet50``, ``mlp`` or ``module:function``.
        optimizer: ``sgd`` or ``adamw``.
        learning_rate: Peak learning rate, None for the optimizer's default.
        momentum: Momentum of SGD.
        weight_decay: Weight decay.
        label_smoothing: Label smoothing of the training loss.
        on_nan: What a loss or gradient that is not finite does: ``stop`` the run as diverged, or
            ``skip`` that update, which ``info["skipped"]`` counts.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        batch_size: N, the samples of a drawn batch.
        epochs: Passes over the training samples, in the unit of full training.
        setting: ``equal-epochs``: the run ends after ``epochs`` passes; ``equal-budget``: it ends
            when ``budget`` of full training's compute is spent.
        budget: Share of full training's compute in (0, 1], for ``equal-budget``.
        max_draws: Drawn batches after which an equal-budget run is cut off; None for four times
            what a keep ratio of 0.1 needs.
        reference: Backbone of the frozen reference model.
        compress: Shorter features in the store: ``int8``, ``pca-128``, ``random-128``, or a
            projection and int8, ``pca-128-int8``; None for all of them in float16.
        charge_reference: Take the reference's compute out of the budget.
        distill: Share in [0, 1] of the training loss that is the divergence from the reference.
        distill_temperature: Temperature of both in that divergence, above 0.
        observe: Optional observations, by name or name -> options.
        w_max: Largest weight that an action may hold.
        normalizer: The weighted loss is divided by the number of samples ``kept`` or ``drawn``.
        pack: Let kept samples wait until there are ``batch_size`` of them: every update is full.
        drop_below: Weights below this are taken as 0.
        reward: Name of the reward.
        price: What a whole budget costs, in nats of validation loss.
        evaluations: Evaluations in a run, None for one per epoch.
        device: ``auto``, ``cpu`` or ``cuda``.
        cuda_graphs: On a GPU, record the updates of a sample count that comes often as a CUDA graph
            and replay it: the same bits in a fraction of the calls, for memory. Built-in learners
            under SGD, alone in their process group.
        seed: Seed of the first reset that is not given one.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    dataset: str = "digits"
    limit: int | None = None
    label_noise: float = 0.0
    duplicates: float = 0.0
    imbalance: float = 0.0
    split_seed: int = 0
    clean_validation: bool = False
    augment: bool | None = None
    image_size: int | None = None
    learner: str = "small-cnn"
    optimizer: str = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    on_nan: str = "stop"
    precision: str = "auto"
    batch_size: int = 128
    epochs: int = 10
    setting: str = "equal-epochs"
    budget: float = 0.25
    max_draws: int | None = None
    reference: str = "efficientnet-lite0"
    compress: str | None = None
    charge_reference: bool = False
    distill: float = 0.0
    distill_temperature: float = 1.0
    observe: Any = None
    w_max: float = 1.0
    normalizer: str = "kept"
    pack: bool = False
    drop_below: float = 0.0
    reward: str = "validation-loss"
    price: float = 0.1
    evaluations: int | None = None
    device: str = "auto"
    cuda_graphs: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check every option that can be checked without data."""
        for name in ("dataset", "learner", "reference", "device"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a name, got {getattr(self, name)!r}")
        parse_compression(self.compress)
        for name in ("limit", "image_size", "max_draws", "evaluations"):
            if getattr(self, name) is not None:
                self._set(name, check_integer(name, getattr(self, name), low=1))
        for name in ("label_noise", "duplicates", "imbalance"):
            self._set(name, check_fraction(name, getattr(self, name), open_high=True))
        self._set("batch_size", check_integer("batch_size", self.batch_size, low=1))
        self._set("epochs", check_integer("epochs", self.epochs, low=1))
        self._set("split_seed", check_integer("split_seed", self.split_seed))
        if self.seed is not None:
            self._set("seed", check_integer("seed", self.seed))
        for name in ("pack", "cuda_graphs"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be true or false, got {getattr(self, name)!r}")
        check_choice("setting", self.setting, SETTINGS)
        self._set("budget", check_fraction("budget", self.budget, open_low=True))
        self._set("distill", check_fraction("distill", self.distill))
        temperature = check_number(
            "distill_temperature", self.distill_temperature, low=0, high=1e3, open_low=True
        )
        self._set("distill_temperature", temperature)
        check_choice("normalizer", self.normalizer, NORMALIZERS)
        check_choice("reward", self.reward, REWARDS)
        self._set("w_max", check_number("w_max", self.w_max, low=0, high=1e6, open_low=True))
        self._set("drop_below", check_number("drop_below", self.drop_below, low=0, high=1e6))
        self._set("price", check_number("price", self.price, low=0, high=1e6))
        self._set("observe", normalize_observe(self.observe))
        self.learner_options()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> EnvOptions:
        """Return options from keyword arguments.

        Raises:
            ValueError: If a name is unknown; the message lists the near ones.
        """
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(f"unknown option {name!r}; {near_names(name, known)}")
        return cls(**options)

    def learner_options(self) -> LearnerOptions:
        """Return how the learner is trained."""
        return LearnerOptions(
            name=self.learner,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            on_nan=self.on_nan,
            precision=self.precision,
            cuda_graphs=self.cuda_graphs,
        )

    def draws_allowed(self, total_steps: int) -> int:
        """Return after how many drawn batches a run is cut off."""
        if self.setting == "equal-epochs":
            return total_steps
        return self.max_draws or math.ceil(40.0 * self.budget * total_steps)
