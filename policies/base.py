"""The one interface of everything that decides: observation in, per-sample weights out."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.state import Stateful
from gstds.observation.shown import NotDeclaredError, needs_line
from gstds.selection.pickers import NamedPicker, make_picker
from gstds.selection.schedules import Schedule, make_schedule
from gstds.selection.weights import weights_for_ratio

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Observation = Mapping[str, Array]
Weights = Array
AnySchedule = Schedule | str | None
"""A schedule, its name, or none."""


_WIDTHS = {"feature_dim": "features", "embedding_dim": "learner_embeddings"}
_LENGTHS = ("budget_flops", "epochs", "max_draws", "total_steps")


@dataclass(frozen=True)
class RunContext:
    """The facts of a run that a policy may want when it begins.

    Attributes:
        batch_size: N.
        budget_flops: What the run may spend; under equal epochs, what full training costs.
        shards: Parts that each drawn batch is divided into, each with a policy of its own; then
            ``batch_size`` is a part's, and all else is of the whole run.
        embedding_dim: H, the width of the learner's embeddings; to be read if they are observed.
        epochs: Passes over the data, in the unit of full training.
        feature_dim: D, the width of the reference's features; to be read if there is a reference.
        forward_flops: Operations of a forward of one sample.
        max_draws: Drawn batches after which the run is cut off.
        num_classes: Number of classes.
        num_samples: Number of training samples.
        sample_flops: Operations of a forward and backward of one sample.
        setting: ``equal-epochs`` or ``equal-budget``.
        steps_per_epoch: Drawn batches of a pass.
        total_steps: Drawn batches of ``epochs`` passes.
    """

    batch_size: int
    budget_flops: float
    epochs: int
    forward_flops: float
    max_draws: int
    num_classes: int
    num_samples: int
    sample_flops: float
    setting: str
    steps_per_epoch: int
    total_steps: int
    feature_dim: int = 0
    embedding_dim: int = 0
    shards: int = 1

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if value or name not in (*_WIDTHS, *_LENGTHS):
            return value
        frame = inspect.currentframe()
        reader = frame.f_back.f_globals.get("__name__", "") if frame and frame.f_back else ""
        if reader == "dataclasses" or (name in _WIDTHS and reader.startswith("gstds.")):
            return value  # to copy it, or of what is known to be there
        if name in _LENGTHS:
            raise NotDeclaredError(
                f"context.{name}: the length of the run is not known; make the Selector with "
                "total_steps=, or take a policy that goes by the progress alone"
            )
        raise NotDeclaredError(
            f"context.{name}: the policy does not declare what it is the width of; add to the "
            f"class: {needs_line([_WIDTHS[name]])}"
        )


@dataclass(frozen=True)
class Transition:
    """One step as a policy that learns sees it.

    Attributes:
        observation: What it saw.
        weights: What it answered (N,).
        reward: What it got.
        next_observation: What it sees now.
        info: The environment's: ``losses`` (N,) and ``trained`` (N,), ``indices`` (N,), ``drawn``,
            ``kept``, ``step``, ``progress``, ``charged_flops``, and ``evaluate``, which says
            whether the validation loss is new.
    """

    observation: Observation
    weights: Weights
    reward: float
    next_observation: Observation
    info: Mapping[str, Any]


class _WithoutReward(Transition):
    """A step whose reward nobody asked for."""

    def __getattribute__(self, name: str) -> Any:
        if name == "reward":
            raise NotDeclaredError(
                "transition.reward: the policy does not declare that it reads it; add to the "
                "class: uses_reward = True (the evaluations for it are then charged)"
            )
        return super().__getattribute__(name)


def transition_of(policy: Policy, *step: Any) -> Transition:
    """Return a step, its fields in order, as a policy is shown it: with what it declared."""
    return (Transition if policy.uses_reward else _WithoutReward)(*step)


_DECLARED = ("needs", "max_weight", "normalizer", "uses_reward")


def begin_run(policy: Policy, seed: int, context: RunContext) -> None:
    """Have a policy begin a run, for which the environment was made as it declares.

    Raises:
        TypeError: If it declares something else afterwards.
    """
    before = {name: copy.copy(getattr(policy, name)) for name in _DECLARED}
    policy.reset(seed, context)
    changed = [name for name, value in before.items() if getattr(policy, name) != value]
    if changed:
        mend = "by which the environment was made; set it on the class or in __init__"
        raise TypeError(f"reset changes {', '.join(changed)}, {mend}")


class Policy(Stateful):
    """Decides which samples of a drawn batch are trained on, and with what weight.

    Attributes:
        needs: Optional observations that it reads, name -> options. The environment computes and
            charges these and no others.
        max_weight: The largest weight it returns.
        normalizer: What the weighted loss is divided by: the number ``kept`` or ``drawn``.
        state: Names of the attributes that a resumed run goes on with, such as ``("_mean",)``; or
            write `state_dict` and `load_state_dict`, see `gstds.common.state.Stateful`.
        uses_reward: True if `learn` reads the reward; the evaluations for it are then charged.
        paper_schedule: Name and parameters of the keep-ratio schedule that the paper uses, None if
            it has none: for comparisons under every paper's own defaults.
        paper_parameters: Parameters that the paper sets otherwise than the class does.
    """

    # The card of a policy that comes with the project stands in its docstring, a line each:
    # "Source:" where the idea comes from, "Cost:" what a step costs beside training on the kept
    # samples (n samples drawn, f a learner's forward, D the features' width), "Helps:", "Hurts:".

    needs: Mapping[str, Mapping[str, Any]] = {}
    max_weight: float = 1.0
    normalizer: str = "kept"
    uses_reward: bool = False
    paper_schedule: tuple[str, Mapping[str, Any]] | None = None
    paper_parameters: Mapping[str, Any] = {}

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run.

        Args:
            seed: Seed of whatever the policy draws.
            context: Facts of the run.
        """

    def act(self, observation: Observation) -> Weights:
        """Return the loss weight of each sample (N,); 0 drops it before its image is loaded."""
        raise NotImplementedError(f"{type(self).__name__} must define act(observation)")

    def learn(self, transition: Transition) -> None:
        """Learn from a step; nothing, unless the policy adapts while it runs."""

    def step_flops(self, drawn: int, kept: int, context: RunContext) -> float:
        """Return the operations of the policy's own arithmetic for a drawn batch; 0 unless told.

        They are charged, as phase ``policy``. Under an equal budget what the whole batch would take
        is set aside before it is drawn. A pure function; 2 for each multiply-add. Sorting, drawing
        and element-wise formulas count zero, as they do for the learner.

        Args:
            drawn: Samples of the drawn batch.
            kept: Samples kept of it; more must not take fewer operations.
            context: Facts of the run.
        """
        return 0.0

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Weights, Any]:
        """Answer as a Stable-Baselines3 model does: `act`, and the state as it came.

        A batch of observations (B, N), as from a vectorized environment, gives (B, N).
        """
        if np.ndim(observation["valid"]) == 1:
            return self.act(observation), state
        rows = range(len(observation["valid"]))
        return np.stack([self.act({n: v[b] for n, v in observation.items()}) for b in rows]), state


class KeepRatioPolicy(Policy):
    """Keeps a share of each batch: `keep_ratio` says how much, a picker says which.

    A subclass that defines `keep_ratio` is an adaptive schedule. Without one, the schedule decides.

    Args:
        schedule: A schedule or its name; used unless the subclass defines `keep_ratio`.
        picker: ``hybrid`` (the paper's), ``uniform``, ``top-score``; see `gstds.selection.pickers`.
        **picker_options: Options of the picker, such as ``loss_weighting``.

    Raises:
        ValueError: If a name or an option is unknown.
    """

    schedule: Schedule = make_schedule("sigmoid")
    _own_needs: Mapping[str, Mapping[str, Any]] = {}
    _steps = 0

    def __init__(
        self, schedule: AnySchedule = None, picker: str = "hybrid", **picker_options: Any
    ) -> None:
        if schedule is not None:
            self.schedule = make_schedule(schedule) if isinstance(schedule, str) else schedule
        self.picker = make_picker(picker, **picker_options)

    @property
    def needs(self) -> Mapping[str, Mapping[str, Any]]:
        """Optional observations: those of the picker, and the class's own."""
        return {**self.picker.needs, **self._own_needs}

    @needs.setter
    def needs(self, more: Mapping[str, Mapping[str, Any]]) -> None:
        self._own_needs = {**self._own_needs, **more}

    def __init_subclass__(cls, **keywords: Any) -> None:
        """What a class declares in ``needs`` comes to what its picker reads."""
        super().__init_subclass__(**keywords)
        own = vars(cls).get("needs")
        if isinstance(own, Mapping):
            cls._own_needs = {**cls._own_needs, **own}
            del cls.needs

    @functools.cached_property
    def picker(self) -> NamedPicker:
        """Says which samples are kept; hybrid if a subclass has an ``__init__`` all its own."""
        return make_picker("hybrid")

    def keep_ratio(self, observation: Observation) -> float:
        """Return the share of the drawn batch to keep, in [0, 1]."""
        return self.schedule(self.schedule_progress(observation))

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run; under equal epochs the progress is a whole number of steps."""
        self._steps = vars(context)["total_steps"] if context.setting == "equal-epochs" else 0

    def schedule_progress(self, observation: Observation) -> float:
        """Return the progress in [0, 1] at which the schedule is read.

        The observation holds it as float32; where the number of steps is known it is made exact, so
        that the kept count is the schedule's to the sample.
        """
        progress = min(1.0, float(observation["progress"][0]))
        return round(progress * self._steps) / self._steps if self._steps else progress

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): 1 for the kept samples, 0 for the others.

        Raises:
            ValueError: If `keep_ratio` returns something that is no share.
        """
        return weights_for_ratio(observation, self.checked_ratio(observation), self.picker)

    def step_flops(self, drawn: int, kept: int, context: RunContext) -> float:
        """Return the operations of the picker."""
        return self.picker.flops(drawn, kept, context)

    def checked_ratio(self, observation: Observation) -> float:
        """Return what `keep_ratio` says of a batch.

        Raises:
            ValueError: If that is no share.
        """
        value = self.keep_ratio(observation)
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            share = float(value.item() if hasattr(value, "item") else value)
            if 0.0 <= share <= 1.0:
                return share
        raise ValueError(
            f"keep_ratio must be in [0, 1], got {value!r:.60} (policy {type(self).__name__!r}, "
            f"progress {float(observation['progress'][0]):.4f})"
        )
