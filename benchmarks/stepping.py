"""Runs that are taken step by step, for benchmarks; and the loop that one would write by hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gstds.common.noise import policy_seed
from gstds.envs.batches.loader import augment, normalize
from gstds.envs.learner.learner import has_bfloat16
from gstds.envs.learner.models import build_model
from gstds.policies import KeepRatioPolicy, RunContext, Transition
from gstds.train.running.options import config_from
from gstds.train.running.setup import make_env, make_run_policy

CLASSES = 10
RECORDED = 20
"""Updates of one count after which a GPU replays them."""
SHAPES = {"small-cnn": (28, 28), "resnet18": (32, 32, 3), "mlp": (28, 28)}
"""fashion-mnist's images for the small networks, cifar10's for ResNet-18."""


@contextmanager
def random_images(learner: str, train: int, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Write random images; yield the options of a run on ``train`` of them: whole batches alone."""
    rng = np.random.default_rng(0)
    count = -(-train * 10 // 7) + 10
    with tempfile.TemporaryDirectory() as name:
        pixels = rng.integers(0, 256, size=(count, *SHAPES[learner]), dtype=np.uint8)
        np.savez(Path(name) / "images.npz", X=pixels, y=np.arange(count) % CLASSES)
        data = {"dataset": f"npz:{name}/images.npz", "limit": train, "reference": "untrained"}
        yield data | {"learner": learner, "device": device}


@dataclass
class Stepper:
    """One policy in a run of its own, taken step by step."""

    policy: Any
    env: Any
    seen: Any

    @classmethod
    def begin(
        cls, policy: str | Any, data: dict[str, Any], *, ahead: bool = True, **options: Any
    ) -> Stepper:
        """Start a run; ``policy`` is a name or a policy, the options are a run's."""
        named = policy if isinstance(policy, str) else "gstds"
        config = config_from(data | {"epochs": 1000, "policy": named} | options)
        chosen = make_run_policy(config) if isinstance(policy, str) else policy
        env = make_env(config, chosen)
        env.ahead = ahead
        seen, _ = env.reset(seed=0)
        chosen.reset(policy_seed(0), RunContext(**env.context()))
        run = cls(chosen, env, seen)
        for _ in range(RECORDED if env.device.type == "cuda" else 0):
            run.step()
        return run

    def step(self) -> float:
        """Take one step, the next batch's scoring included; return its seconds."""
        began = time.perf_counter()
        with self.env.ledger.timed("policy"):
            weights = self.policy.act(self.seen)
        following, reward, _, _, info = self.env.step(weights)
        self.policy.learn(Transition(self.seen, weights, reward, following, info))
        self.seen, self.drawn, self.kept = following, info["drawn"], info["kept"]
        return time.perf_counter() - began

    def both(self) -> tuple[float, float]:
        """Take one step; return its seconds, and those of neither loading nor training."""
        before = self._training()
        took = self.step()
        return took, took - (self._training() - before)

    def _training(self) -> float:
        seconds = self.env.ledger.seconds
        return float(seconds.get("load", 0.0) + seconds.get("train", 0.0))

    @property
    def charged(self) -> float:
        """Charged operations so far."""
        return float(self.env.ledger.charged_flops)


class Spread(KeepRatioPolicy):
    """The paper's policy, with a schedule's whole range of keep ratios in every few steps."""

    def __init__(self, schedule: Any, steps: int, **picker: Any) -> None:
        super().__init__(schedule, **picker)
        self._ratios = [schedule((i + 0.5) / steps) for i in range(steps)]
        self._at = 0

    def keep_ratio(self, observation: Any) -> float:
        self._at += 1
        return float(self._ratios[(self._at - 1) % len(self._ratios)])


class HandLoop:
    """A plain loop over the same images, augmentation and network as an environment's run.

    Args:
        env: The environment, of which only the data are used.
        learner: Name of the network.
        batch: Samples of a batch.
        precision: ``auto`` as the environment has it, or ``float32``.
        channels_last: Layout of images and weights.
    """

    def __init__(
        self,
        env: Any,
        learner: str,
        batch: int,
        *,
        precision: str = "auto",
        channels_last: bool = True,
    ) -> None:
        self._data, self._batch, self._channels_last = env.data, batch, channels_last
        self._device = env.device
        self._bfloat16 = precision == "auto" and has_bfloat16(self._device)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = build_model(learner, env.data.image_shape, env.data.num_classes, seed=0)
        self.model = model.to(device=self._device, memory_format=layout).train()
        self._optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self._labels = torch.from_numpy(np.array(env.data.train.labels)).to(self._device)
        self._order = np.random.default_rng(0)
        self._waiting = np.empty(0, dtype=np.int64)

    def step(self) -> float:
        """Train on one batch; return its seconds."""
        began = time.perf_counter()
        if len(self._waiting) < self._batch:
            self._waiting = self._order.permutation(len(self._data.train))
        rows, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        data = self._data
        raw = data.train.gather(rows).to(self._device)
        raw = augment(raw, rows, seed=0, epoch=0, pad=data.pad, flip=data.flip)
        images = normalize(raw, data.mean, data.std, channels_last=self._channels_last)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), self._labels[rows])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        loss.item()
        return time.perf_counter() - began


def several(step: Any, times: int) -> Any:
    """Return a runner that takes several steps and returns their seconds."""
    return lambda: float(sum(step() for _ in range(times)))
