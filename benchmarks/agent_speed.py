"""Environments for agents: how long a reset and an episode take, and two at once against one.

    python benchmarks/agent_speed.py [--quick] [--rounds 5]

`gstds/KeepRatio-v0` at its defaults on digits, and on 2,400 images of Fashion-MNIST. A reset is any
but the first, whose data and features are cached; an episode keeps a quarter of every batch. The
last part takes decisions in one and in two asynchronous environments, a process of one thread each,
and compares decisions a second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
import torch
from interleaved import Figure, arguments, figure, interleave, publish, ratio, rounds_of

from gstds import envs  # noqa: F401  (registers the environments)

KEEP_A_QUARTER = 4
SETS = {"digits": "digits", "Fashion-MNIST, 2,400": "gstds.envs.task.small_sets:fashion_0"}
DECISIONS = 60
MOST_RESET, MOST_EPISODE = 0.050, 1.0


def alone(name: str, data: str, rounds: int) -> Iterator[Figure]:
    """Yield what one environment's resets and episodes take."""
    torch.set_num_threads(1)
    env = gymnasium.make("gstds.envs:gstds/KeepRatio-v0", dataset=data)
    env.reset(seed=0)
    resets, episodes = [], []
    for number in range(rounds):
        began = time.perf_counter()
        env.reset(seed=number)
        resets.append(time.perf_counter() - began)
        began, done, decisions = time.perf_counter(), False, 0
        while not done:
            _, _, terminated, truncated, _ = env.step(KEEP_A_QUARTER)
            done, decisions = terminated or truncated, decisions + 1
        episodes.append(time.perf_counter() - began)
    env.close()
    took = [seconds / MOST_RESET for seconds in resets]
    milliseconds = round(1e3 * float(np.median(resets)), 1)
    yield figure(f"{name}: reset / 50 ms", took, reach=1.0, at_most=True, milliseconds=milliseconds)
    yield figure(f"{name}: an episode, seconds", episodes, at_most=True, decisions=decisions)


def decide(vector: gymnasium.vector.VectorEnv, count: int) -> float:
    """Return the seconds that a number of decisions in each environment takes."""
    actions = np.full(vector.num_envs, KEEP_A_QUARTER)
    began = time.perf_counter()
    for _ in range(count):
        vector.step(actions)
    return time.perf_counter() - began


def together(picker: str, rounds: int) -> Iterator[Figure]:
    """Yield how much faster two environments decide than one.

    With the hybrid picker one alone already has a thread beside it that solves the next batch.
    """
    vectors = {
        number: gymnasium.make_vec(
            "gstds.envs:gstds/KeepRatio-v0",
            num_envs=number,
            vectorization_mode="async",
            dataset=SETS["Fashion-MNIST, 2,400"],
            picker=picker,
        )
        for number in (1, 2)
    }
    for vector in vectors.values():
        vector.reset(seed=0)
    runners = {str(n): partial(decide, vector, DECISIONS) for n, vector in vectors.items()}
    seconds = interleave(runners, rounds)
    for vector in vectors.values():
        vector.close()
    twice = [2 * one for one in ratio(seconds["1"], seconds["2"])]
    yield figure(f"two asynchronous environments / one, picker {picker}", twice, reach=1.7)


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    rounds = rounds_of(options)
    figures = [one for name, data in SETS.items() for one in alone(name, data, 3 * rounds)]
    for picker in ("uniform",) if options.quick else ("uniform", "learnability", "hybrid"):
        figures += together(picker, rounds)
    publish("agent-speed", "Environments for agents", figures, options)


if __name__ == "__main__":
    main()
