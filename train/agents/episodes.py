"""Episodes of an agent's training: recorded, shuffled for a control, or judged on held-out runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from gstds.common.state import Stateful
from gstds.observation.spec import LOSS_BOUND
from gstds.policies.learned.agent_file import Actor, AgentFile

__all__ = ["Episodes", "ShuffledReward", "judge", "play"]


class Episodes(Stateful, gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps a row for each episode that ended.

    Attributes:
        rows: What each episode came to.
        charged: Operations charged in all episodes, those that go on included.
    """

    state = ("rows", "_spent", "_open", "_reward")

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.rows: list[dict[str, Any]] = []
        self._spent, self._reward = 0.0, 0.0
        self._open = 0.0

    @property
    def charged(self) -> float:
        """Operations charged so far."""
        return self._spent + self._open

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._spent, self._open, self._reward = self._spent + self._open, 0.0, 0.0
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Pass on, and note the end."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._reward += float(reward)
        self._open = float(info["charged_flops"])
        if terminated or truncated:
            self.rows.append(_row(info, self._reward))
        return observation, reward, terminated, truncated, info


def _row(info: Mapping[str, Any], reward: float) -> dict[str, Any]:
    names = ("instance", "mean_keep", "charged_flops", "step", "decision")
    ends = ("selection_accuracy", "under_budget")
    row = {"reward": reward} | {name: info[name] for name in (*names, *ends)}
    return row | {"selection_loss": _bounded(info)}


def _bounded(row: Mapping[str, Any]) -> float:
    """Return the loss; that of a learner which an agent has wrecked counts as the bound of all."""
    loss = float(row["selection_loss"])
    return min(loss, LOSS_BOUND) if math.isfinite(loss) else LOSS_BOUND


class ShuffledReward(gymnasium.RewardWrapper[Any, Any]):
    """Pays a reward that was earned at another time: the control that must learn nothing.

    Args:
        env: The environment.
        seed: Seed of the draws.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._earned: list[float] = []

    def reward(self, reward: Any) -> float:
        """Return one of the rewards earned so far, whichever."""
        self._earned.append(float(reward))
        return self._earned[int(self._random.integers(len(self._earned)))]


def play(env: Any, actor: Actor, instance: int, seed: int) -> dict[str, Any]:
    """Run one episode of ``gstds/KeepRatio-v0`` under an exported actor; return its row.

    The row also holds ``progress`` and ``ratios`` at every decision.
    """
    observation, info = env.reset(seed=seed, options={"instance": instance})
    actor.reset()
    progress, ratios, total, done = [], [], 0.0, False
    while not done:
        ratio = actor.ratio(observation)
        progress.append(float(info["progress"]))
        ratios.append(ratio)
        observation, reward, terminated, truncated, info = env.step(env.actions.action(ratio))
        total += float(reward)
        done = terminated or truncated
    return _row(info, total) | {"seed": seed, "progress": progress, "ratios": ratios}


def judge(
    env: Any,
    agent: AgentFile,
    seeds: Sequence[int],
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Run an agent on every instance of an environment; return means and the episodes.

    Returns:
        ``accuracy`` and ``loss`` on the splits for choosing, ``reward``, ``mean_keep``, and
        ``episodes``.
    """
    actor = Actor(agent)
    runs = [(instance, seed) for instance in range(len(env.instances)) for seed in seeds]
    rows = []
    for number, (instance, seed) in enumerate(runs):
        progress("looking at held-out instances", number, len(runs))
        rows.append(play(env, actor, instance, seed))
    means = {
        name: float(np.mean([row[key] for row in rows]))
        for name, key in (
            ("accuracy", "selection_accuracy"),
            ("loss", "selection_loss"),
            ("reward", "reward"),
            ("mean_keep", "mean_keep"),
        )
    }
    return means | {"episodes": rows}
