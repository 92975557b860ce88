"""`gstds/KeepRatio-v0`: a step is several drawn batches, an action the share of them to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gstds.common.checks import check_choice, check_fraction, check_number
from gstds.envs.keep_ratio.instances import find_instance, make_instances
from gstds.envs.selection.env import DataSelectionEnv
from gstds.envs.selection.standing import NOT_RUNNING, StandingEnv, check_render_mode
from gstds.envs.task.options import EnvOptions, normalize_observe
from gstds.envs.task.rewards import Curve, RewardMeter, evaluates
from gstds.envs.task.task import Progress
from gstds.observation.spec import OPTIONAL_OBSERVATIONS, asked_of
from gstds.observation.summary import SUMMARY_HIGH, SUMMARY_LOW, RunFacts, Trend, summarize
from gstds.options.fields import from_keywords, names
from gstds.options.world import KeepRatioOptions, WorldOptions
from gstds.selection.pickers import RATIO_PICKERS
from gstds.selection.weights import weights_for_ratio

Array = npt.NDArray[np.float32]

_SHARED = (*names(WorldOptions), "observe", "w_max", "normalizer", "drop_below")
_VALIDATION = asked_of(OPTIONAL_OBSERVATIONS, "evaluation")
_CURVE_SEEDS = (101, 102)
_GRID = np.linspace(0.0, 1.0, 41)


class KeepRatioEnv(StandingEnv):
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
        render_mode: None, or ``rgb_array`` for pictures of the drawn batches.
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
    state += ("_total_drawn", "running", "_meter")
    version = 0

    def __init__(
        self, *, render_mode: str | None = None, progress: Progress | None = None, **options: Any
    ) -> None:
        self.render_mode = check_render_mode(render_mode)
        self.options = from_keywords(KeepRatioOptions, options, "KeepRatioEnv.__init__")
        self.actions = RatioActions(self.options.action, self.options.ratios)
        self.interval = self.options.interval
        self.picker = RATIO_PICKERS[self.options.picker]
        self.instances = make_instances(self.options.instances)
        self.action_space = self.actions.space
        self.observation_space = spaces.Box(SUMMARY_LOW, SUMMARY_HIGH, dtype=np.float32)
        self._evaluates = evaluates(self.options.reward)
        self._meter = self._new_meter(None)
        shared = {name: getattr(self.options, name) for name in _SHARED}
        self.worlds = [
            self._make_world(shared | dict(one.options), progress) for one in self.instances
        ]

    def _make_world(self, options: dict[str, Any], progress: Progress | None) -> DataSelectionEnv:
        asked = normalize_observe(options.pop("observe"))
        self._hidden = [] if "validation_loss" in asked else _VALIDATION
        wanted: dict[str, dict[str, Any]] = {name: {} for name in _VALIDATION if self._evaluates}
        observe = dict(self.picker.needs) | asked | wanted
        return DataSelectionEnv(**options, observe=observe, reward="none", progress=progress)

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
        seed = self.options.seed if seed is None and self._first else seed
        super().reset(seed=seed)
        drawn, own = (int(n) for n in self.np_random.integers(2**31, size=2))
        position = drawn % len(self.instances) if wanted is None else wanted
        self.instance = find_instance(self.instances, position)
        self._observation, self._last = self.world.reset(seed=own if seed is None else int(seed))
        self._begin()
        self._meter.begin(*self._evaluation())
        return self._summary(), self._info(kept=0, drawn=0)

    def _begin(self) -> None:
        """Begin to count what the world, which stands at its first or a later step, goes on to."""
        self._first, self.running = False, True
        self._facts = RunFacts.from_context(self.world.context())
        self._trend: Sequence[float] | None = None
        self._ratio, self._decisions = 1.0, 0
        self._total_kept = self._total_drawn = 0
        curve = None
        if self.options.centered and self._evaluates:
            curve = random_curve(self.world.options, self.options.control_keep)
        self._meter = self._new_meter(curve)

    def _new_meter(self, curve: Curve | None) -> RewardMeter:
        name, price, target = self.options.reward, self.options.price, self.options.target_accuracy
        return RewardMeter(name, price=price, target=target, curve=curve)

    # ------------------------------------------------------------------ step

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Train on the next ``interval`` drawn batches; see the class.

        Raises:
            ValueError: If the action is not one of the action space's.
            RuntimeError: If the run has ended or was not begun by `reset`.
        """
        if not self.running:
            raise RuntimeError(NOT_RUNNING)
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
        self.running = not (terminated or truncated)
        self._decisions += 1
        self._total_kept, self._total_drawn = self._total_kept + kept, self._total_drawn + drawn
        info = self._info(kept=kept, drawn=drawn)
        if not self.running:  # uncharged, on the split for choosing, never on test
            result = self.world.monitor("selection_validation")
            info["selection_accuracy"], info["selection_loss"] = result.accuracy, result.loss
            info["under_budget"] = bool(self._last["under_budget"])
        return self._summary(), float(reward), terminated, truncated, info

    def _evaluation(self) -> tuple[float, float, float]:
        """Return the reward-validation loss and accuracy last seen, and the share spent."""
        loss, accuracy = (float(self._observation.get(name, [0.0])[0]) for name in _VALIDATION)
        return loss, accuracy, self.world.ledger.charged_flops / self.world.budget_flops

    def _summary(self) -> Array:
        shown = {k: value for k, value in self._observation.items() if k not in self._hidden}
        return summarize(shown, self._facts, self._trend)

    def _info(self, **counts: int) -> dict[str, Any]:
        """Return what a tracker logs: deterministic, no clock in it."""
        seen = ("step", "progress", "train_loss", "charged_flops")
        return {
            **counts,
            "instance": self.instances[self.instance].name,
            "ratio": self._ratio,
            "decision": self._decisions,
            **{name: self._last[name] for name in seen},
            "mean_keep": self._total_kept / max(1, self._total_drawn),
        }

    def render(self) -> Any:
        """Return the batch drawn last as a picture, see `DataSelectionEnv.render`."""
        return self.world.render()

    # ------------------------------------------------------------------ state

    def _made_with(self) -> dict[str, Any]:
        return vars(self.options) | {"render_mode": self.render_mode}

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
        self._begin()
        super().load_state_dict(state)
        return self._summary()


RATIOS = (0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)
"""The nine keep ratios of the default action space: finer where a step more matters more."""


class RatioActions:
    """Turns actions into keep ratios.

    Args:
        kind: ``discrete`` or ``box``.
        ratios: Keep ratios in [0, 1] of the discrete actions; None is `RATIOS`.

    Raises:
        ValueError: If the kind is unknown, or there are fewer than two ratios or one is no share.

    Attributes:
        space: The action space.
    """

    def __init__(self, kind: str, ratios: Sequence[float] | None = None) -> None:
        self.kind = check_choice("action", kind, ("discrete", "box"))
        self.ratios = tuple(check_fraction("ratios", r) for r in (ratios or RATIOS))
        if len(self.ratios) < 2:
            raise ValueError(f"ratios must hold at least two keep ratios, got {self.ratios}")
        self.space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
        if kind == "discrete":
            self.space = spaces.Discrete(len(self.ratios))

    def ratio(self, action: Any) -> float:
        """Return an action's keep ratio in [0, 1].

        Raises:
            ValueError: If the action is outside the space.
        """
        value = np.asarray(action, dtype=np.float64).reshape(-1)
        if len(value) != 1:
            raise ValueError(f"action must be one finite number, got {action!r}")
        if self.kind == "box":
            number = check_number("action", value[0], low=-1.0 - 1e-6, high=1.0 + 1e-6)
            return min(1.0, max(0.0, (1.0 + number) / 2.0))
        number = check_number("action", value[0], low=0, high=len(self.ratios) - 1)
        if not number.is_integer():
            raise ValueError(f"action must be in 0 ... {len(self.ratios) - 1}, got {action!r}")
        return self.ratios[int(number)]

    def action(self, ratio: float) -> Any:
        """Return the action of a keep ratio in [0, 1]; of the nearest one where they are listed."""
        check_fraction("keep_ratio", ratio)
        if self.kind == "box":
            return np.array([2.0 * ratio - 1.0], dtype=np.float32)
        return int(np.argmin([abs(ratio - known) for known in self.ratios]))


_curves: dict[tuple[str, float], Curve] = {}
"""Those that this process has computed, by instance and share."""


def random_curve(options: EnvOptions, keep: float) -> Curve:
    """Return uniform random keep on an instance as a curve, the mean over two seeds.

    It is what an agent's reward is held against at equal spending. It reads no score, so it pays
    for none.

    Args:
        options: The instance's.
        keep: Share of each drawn batch that is kept, in (0, 1].
    """
    bare = replace(options, observe={name: {} for name in _VALIDATION})
    key = repr(bare), keep
    if key not in _curves:
        env = DataSelectionEnv(**vars(bare))
        runs = [_random_run(env, keep, seed) for seed in _CURVE_SEEDS]
        means = [
            np.mean([np.interp(_GRID, run[0], run[column]) for run in runs], axis=0)
            for column in (1, 2)
        ]
        _curves[key] = Curve(_GRID, *means)
    return _curves[key]


def _random_run(env: DataSelectionEnv, keep: float, seed: int) -> npt.NDArray[np.float64]:
    """Return shares spent, losses and accuracies (3, M) at the evaluations of one run."""
    observation, info = env.reset(seed=seed)
    points: list[tuple[float, ...]] = []
    done = False
    while True:
        if not points or info["evaluate"]:
            seen = (float(observation[name][0]) for name in _VALIDATION)
            points.append((env.ledger.charged_flops / env.budget_flops, *seen))
        if done:
            return np.array(points, dtype=np.float64).T
        weights = weights_for_ratio(observation, keep, RATIO_PICKERS["uniform"])
        observation, _, terminated, truncated, info = env.step(weights)
        done = terminated or truncated
