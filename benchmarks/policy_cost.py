"""What a step of every policy costs, in operations and relative to a step on everything.

    python benchmarks/policy_cost.py [--rounds 7] [--out docs/policies/measured.json]

Batches of 128 random images of 28 by 28 (fashion-mnist's shape, 10 classes), small-cnn, untrained
Lite0 as the reference. Each policy trains on its own copy of the same run: a few steps to warm up,
then one step each in turn, round after round, so that what else the machine does hits all alike.
The ratio is of a policy's step to `full`'s step in the same round; the figure is its median. Cards
read the file: `python -m tests.policies.cards docs/policies`.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gstds.common.files import write_json
from gstds.common.noise import policy_seed
from gstds.policies import RunContext, Transition
from gstds.policies.registry import POLICIES
from gstds.train.comparing.compare import hardware
from gstds.train.running.options import config_from
from gstds.train.running.setup import make_env, make_run_policy

N, SAMPLES, WARM = 128, 2048, 20
PHASES = ("train", "score", "spectral", "policy")


@dataclass
class Stepper:
    """One policy in a run of its own."""

    policy: Any
    env: Any
    seen: Any

    @classmethod
    def begin(cls, name: str, dataset: str) -> Stepper:
        options = {"dataset": dataset, "batch_size": N, "reference": "untrained", "epochs": 20}
        config = config_from(options | {"policy": name, "schedule": "constant", "keep": 0.5})
        policy = make_run_policy(config)
        env = make_env(config, policy)
        seen, _ = env.reset(seed=0)
        policy.reset(policy_seed(0), RunContext(**env.context()))
        return cls(policy, env, seen)

    def step(self) -> float:
        """Take one step; return its seconds, the next batch's scoring included."""
        start = time.perf_counter()
        weights = self.policy.act(self.seen)
        following, reward, _, _, info = self.env.step(weights)
        self.policy.learn(Transition(self.seen, weights, reward, following, info))
        self.seen = following
        self.drawn, self.kept = info["drawn"], info["kept"]
        return time.perf_counter() - start

    def flops(self) -> dict[str, float]:
        return {phase: self.env.ledger.flops[phase] for phase in PHASES}


def measure(rounds: int, dataset: str) -> dict[str, Any]:
    steppers = {name: Stepper.begin(name, dataset) for name in POLICIES}
    for stepper in steppers.values():
        for _ in range(WARM):
            stepper.step()
    before = {name: stepper.flops() for name, stepper in steppers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    shares: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(rounds):
        for name, stepper in steppers.items():
            seconds[name].append(stepper.step())
            shares[name].append(stepper.kept / stepper.drawn)
    full = np.array(seconds["full"])
    table = {}
    for name, stepper in steppers.items():
        after = stepper.flops()
        table[name] = {
            "keep": round(float(np.mean(shares[name])), 3),
            "megaflops": {
                phase: round((after[phase] - before[name][phase]) / rounds / 1e6, 3)
                for phase in PHASES
            },
            "relative_time": round(float(np.median(np.array(seconds[name]) / full)), 3),
        }
    return table


def images(folder: Path) -> str:
    """Write random images, and return their name as a data set."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(SAMPLES * 10 // 7 + 10, 28, 28), dtype=np.uint8)
    np.savez(folder / "images.npz", X=pixels, y=np.arange(len(pixels)) % 10)
    return f"npz:{folder / 'images.npz'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("docs/policies/measured.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = measure(options.rounds, images(Path(folder)))
    machine = hardware()
    content = {
        "batch": N,
        "rounds": options.rounds,
        "processor": machine["processor"],
        "threads": 1,
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
        "policies": dict(sorted(table.items())),
    }
    write_json(options.out, content)
    for name, row in content["policies"].items():
        print(name, row)


if __name__ == "__main__":
    main()
