"""`gstds/KeepRatio-v0`: a step is several drawn batches, an action the share of them to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gstds.common.state import Stateful
from gstds.envs.keep_ratio.actions import RatioActions
from gstds.envs.keep_ratio.centering import random_curve
from gstds.envs.keep_ratio.instances import find_instance, make_instances
from gstds.envs.selection.env import DataSelectionEnv
from gstds.envs.task.options import normalize_observe
from gstds.envs.task.rewards import Curve, RewardMeter, evaluates
from gstds.envs.task.task import Progress
from gstds.observation.spec import OPTIONAL_OBSERVATIONS, asked_of
from gstds.observation.summary import SUMMARY_HIGH, SUMMARY_LOW, RunFacts, Trend, summarize
from gstds.options.fields import from_keywords, names
from gstds.options.world import KeepRatioOptions, WorldOptions
from gstds.selection.pickers import RATIO_PICKERS
from gstds.selection.weights import weights_for_ratio

__all__ = ["KeepRatioEnv"]

Array = npt.NDArray[np.float32]

_SHARED = (*names(WorldOptions), "observe", "w_max", "normalizer", "drop_below")
_VALIDATION = asked_of(OPTIONAL_OBSERVATIONS, "evaluation")


class KeepRatioEnv(Stateful, gymnasium.Env[Array, Any]):
    """Train a network under a budget; every few drawn batches say what share of them to keep.

    ## Action space
    ``Discrete(9)``: a position in ``ratios``. With ``action="box"`` ``Box(-1, 1, (1,))``: the keep
    ratio is (1 + a) / 2. Which samples are kept is the picker's choice. 0 skips the batches.

    ## Observation space
    ``Box`` (17,) float32: the scalars of `gstds.observation.summary.SUMMARY_NAMES`, each in [0, 1]
    or [-1, 1]. ``validation_loss`` is 0 unless ``observe`` names it.

    ## Rewards
    By name, see `gstds.envs.task.rewards.RewardMeter`; by default the drop of the reward-validation
    loss minus ``price`` times the share of the budget spent meanwhile. ``centered`` subtracts what
    random keep of ``control_keep`` earns with the same instance and the same spending.

    ## Starting state
    A freshly initialized learner on one of ``instances``: drawn, or the one that
    ``reset(options={"instance": NAME_OR_POSITION})`` names.

    ## Episode end
    As for ``gstds/DataSelection-v0``: terminated when the budget is spent, truncated after
    ``max_draws`` drawn batches.

    ## Arguments
    Those of ``gstds/DataSelection-v0``, with equal budgets of 0.25 of 8 epochs by default, and
    some of its own, see docs/options.md.

    Args:
        render_mode: Must be None.
        progress: Called with a phase, what is done, and the total, while data are prepared.
        **options: See above.

    Attributes:
        worlds: The environments of drawn batches, one for each instance.

    Raises:
        ValueError: If an option is unknown or out of range, or an instance is impossible.
        TypeError: If an option has the wrong type.
        OSError: If data cannot be read.

    ## Version history
    v0: first version.
    """

    state: tuple[str, ...] = ("_np_random", "_trend", "_ratio", "_decisions", "_total_kept")
    state += ("_total_drawn", "_running", "_meter")
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (gymnasium's own attribute)
    version = 0

    def __init__(
        self,
        *,
        render_mode: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self.render_mode = render_mode
        self.options = from_keywords(KeepRatioOptions, options, "KeepRatioEnv.__init__")
        self.actions = RatioActions(self.options.action, self.options.ratios)
        self.interval = self.options.interval
        self.picker = RATIO_PICKERS[self.options.picker]
        self.instances = make_instances(self.options.instances)
        self.action_space = self.actions.space
        self.observation_space = spaces.Box(SUMMARY_LOW, SUMMARY_HIGH, dtype=np.float32)
        self._new_meter(None)
        shared = {name: getattr(self.options, name) for name in _SHARED}
        self.worlds = [
            self._make_world(shared | dict(one.options), progress) for one in self.instances
        ]
        self._curves: dict[int, Curve] = {}
        self._first, self._running = True, False

    def _make_world(self, options: dict[str, Any], progress: Progress | None) -> DataSelectionEnv:
        observe = normalize_observe(options.pop("observe"))
        self._sees_validation = "validation_loss" in observe
        wanted = _VALIDATION if evaluates(self.options.reward) else []
        return DataSelectionEnv(
            **options,
            observe=dict(self.picker.needs) | observe | {name: {} for name in wanted},
            reward="none",
            progress=progress,
        )

    # ------------------------------------------------------------------ reset

    @property
    def world(self) -> DataSelectionEnv:
        """The environment of drawn batches that this one runs in."""
        return self.worlds[self.instance]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start a new run; see the class.

        Args:
            seed: Seed of the run; None takes the environment's, then draws from its generator.
            options: ``instance``: a name or a position; None draws one.

        Raises:
            ValueError: If an option or the instance is unknown.
        """
        options = dict(options or {})
        wanted = options.pop("instance", None)
        if options:
            raise ValueError(f"reset knows the option 'instance' alone, got {sorted(options)}")
        if seed is None and self._first:
            seed = self.options.seed
        super().reset(seed=seed)
        drawn, own = (int(n) for n in self.np_random.integers(2**31, size=2))
        if wanted is None:
            self.instance = drawn % len(self.instances)
        else:
            self.instance = find_instance(self.instances, wanted)
        self._begin(own if seed is None else int(seed))
        return self._summary(), self._info({"kept": 0, "drawn": 0})

    def _begin(self, run_seed: int) -> None:
        world = self.world
        self._observation, self._last = world.reset(seed=run_seed)
        self._first, self._running = False, True
        self._facts = RunFacts.from_context(world.context())
        self._trend: Sequence[float] | None = None
        self._ratio, self._decisions = 1.0, 0
        self._total_kept = self._total_drawn = 0
        self._meter = self._new_meter(self._curve())
        self._meter.begin(*self._evaluation())

    def _new_meter(self, curve: Curve | None) -> RewardMeter:
        name, price, target = self.options.reward, self.options.price, self.options.target_accuracy
        return RewardMeter(name, price=price, target=target, curve=curve)

    def _curve(self) -> Curve | None:
        """Return the control's curve of the present instance, if it is wanted; computed once."""
        if not (self.options.centered and evaluates(self.options.reward)):
            return None
        if self.instance not in self._curves:
            options = self.world.options
            self._curves[self.instance] = random_curve(options, self.options.control_keep)
        return self._curves[self.instance]

    # ------------------------------------------------------------------ step

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Train on the next ``interval`` drawn batches; see the class.

        Raises:
            ValueError: If the action is not one of the action space's.
            RuntimeError: If the run has ended or was not begun by `reset`.
        """
        if not self._running:
            raise RuntimeError("the run has ended or was not begun: call reset first")
        self._ratio = self.actions.ratio(action)
        self._trend = Trend.of(self._observation)
        reward, kept, drawn = 0.0, 0, 0
        terminated = truncated = False
        for _ in range(self.interval):
            weights = weights_for_ratio(self._observation, self._ratio, self.picker)
            self._observation, _, terminated, truncated, self._last = self.world.step(weights)
            kept, drawn = kept + self._last["kept"], drawn + self._last["drawn"]
            if self._last["evaluate"]:
                reward += self._meter.reward(*self._evaluation(), done=terminated or truncated)
            if terminated or truncated:
                break
        self._running = not (terminated or truncated)
        self._decisions += 1
        self._total_kept, self._total_drawn = self._total_kept + kept, self._total_drawn + drawn
        info = self._info({"kept": kept, "drawn": drawn})
        if not self._running:
            info |= self._final()
        return self._summary(), float(reward), terminated, truncated, info

    def _evaluation(self) -> tuple[float, float, float]:
        """Return the reward-validation loss and accuracy last seen, and the share spent."""
        spent = self.world.ledger.charged_flops / self.world.budget_flops
        if "validation_loss" not in self._observation:
            return 0.0, 0.0, spent
        loss = float(self._observation["validation_loss"][0])
        return loss, float(self._observation["validation_accuracy"][0]), spent

    def _summary(self) -> Array:
        hidden = [] if self._sees_validation else _VALIDATION
        seen = {name: value for name, value in self._observation.items() if name not in hidden}
        return summarize(seen, self._facts, self._trend)

    def _info(self, counts: dict[str, int]) -> dict[str, Any]:
        """Return what a tracker logs: deterministic, no clock in it."""
        last = self._last
        return {
            **counts,
            "instance": self.instances[self.instance].name,
            "ratio": self._ratio,
            "decision": self._decisions,
            "step": last["step"],
            "progress": last["progress"],
            "train_loss": last["train_loss"],
            "charged_flops": last["charged_flops"],
            "mean_keep": self._total_kept / max(1, self._total_drawn),
        }

    def _final(self) -> dict[str, Any]:
        """Return the uncharged evaluation at the end: on the split for choosing, never on test."""
        result = self.world.monitor("selection_validation")
        return {
            "selection_accuracy": result.accuracy,
            "selection_loss": result.loss,
            "under_budget": bool(self._last["under_budget"]),
        }

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a run in progress consists of, as arrays and JSON-able values.

        Raises:
            RuntimeError: If no run was begun.
        """
        if self._first:
            raise RuntimeError("there is no run to save: call reset first")
        own = {"world": self.world.state_dict(), "instance": self.instances[self.instance].name}
        return own | super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> Array:
        """Take up a run where `state_dict` left it; return the observation it waits on."""
        super().reset(seed=0)
        self.instance = find_instance(self.instances, state["instance"])
        self._observation = self.world.load_state_dict(state["world"])
        self._last = self.world.info()
        self._first = False
        self._facts = RunFacts.from_context(self.world.context())
        self._meter = self._new_meter(self._curve())
        super().load_state_dict(state)
        return self._summary()
