"""Random keep as a curve: what an agent's reward is held against at equal spending."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gstds.envs.selection.env import DataSelectionEnv
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.rewards import Curve
from gstds.selection.weights import uniform, weights_for_ratio

__all__ = ["random_curve"]

CURVE_SEEDS = (101, 102)
_GRID = np.linspace(0.0, 1.0, 41)


def random_curve(options: EnvOptions, keep: float, seeds: Sequence[int] = CURVE_SEEDS) -> Curve:
    """Return the curve of uniform random keep on an instance, the mean over seeds.

    The control reads no score, so it pays for none. Computed once in a process for each instance.

    Args:
        options: The instance's.
        keep: Share of each drawn batch that is kept, in (0, 1].
        seeds: Seeds of the runs.
    """
    bare = replace(options, observe={"validation_loss": {}, "validation_accuracy": {}})
    return _curve(_Key(bare), keep, tuple(seeds))


class _Key:
    """Options as a key: equal if every option is."""

    def __init__(self, options: EnvOptions) -> None:
        self.options = options
        self._text = repr(options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@functools.lru_cache(maxsize=64)
def _curve(key: _Key, keep: float, seeds: tuple[int, ...]) -> Curve:
    env = DataSelectionEnv(**vars(key.options))
    runs = [_run(env, keep, seed) for seed in seeds]
    losses = [np.interp(_GRID, spent, loss) for spent, loss, _ in runs]
    accuracies = [np.interp(_GRID, spent, accuracy) for spent, _, accuracy in runs]
    return Curve(_GRID, np.mean(losses, axis=0), np.mean(accuracies, axis=0))


def _run(env: DataSelectionEnv, keep: float, seed: int) -> tuple[Any, Any, Any]:
    """Return shares spent, losses and accuracies (M,) at the evaluations of one run."""
    observation, _ = env.reset(seed=seed)
    points = [_point(env, observation)]
    done = False
    while not done:
        weights = weights_for_ratio(observation, keep, lambda batch, k, noise: uniform(k, noise))
        observation, _, terminated, truncated, info = env.step(weights)
        done = terminated or truncated
        if info["evaluate"]:
            points.append(_point(env, observation))
    spent, loss, accuracy = np.array(points, dtype=np.float64).T
    return spent, loss, accuracy


def _point(env: DataSelectionEnv, observation: Any) -> tuple[float, float, float]:
    return (
        env.ledger.charged_flops / env.budget_flops,
        float(observation["validation_loss"][0]),
        float(observation["validation_accuracy"][0]),
    )
