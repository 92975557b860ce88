"""torch.compile against plain torch: an update of the learner, and what the compiling takes.

    python benchmarks/compiled.py [--quick] [--rounds 5] [--learner small-cnn resnet18]

The same update by both, forward, backward and optimizer, N = 128, and with half of that kept, which
is another shape; the network compiled for whatever size comes. Needs a C++ compiler. What compiling
takes stands beside it, in plain updates.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from interleaved import Figure, arguments, figure, interleave, publish, ratio, rounds_of
from stepping import CLASSES, SHAPES

from gstds.envs.learner.learner import has_bfloat16, resolve_device
from gstds.envs.learner.models import build_model

SIZES = (128, 64)


class Update:
    """One update after another on the same random images."""

    def __init__(self, learner: str, n: int, device: torch.device, compiled: bool) -> None:
        height, width, *channels = SHAPES[learner]
        shape = (channels[0] if channels else 1, height, width)
        model = build_model(learner, shape, CLASSES, seed=0)
        model = model.to(device=device, memory_format=torch.channels_last).train()
        self._optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        self._model = torch.compile(model, dynamic=True) if compiled else model
        generator = torch.Generator().manual_seed(0)
        images = torch.randn((n, *shape), generator=generator)
        self._images = images.to(device=device, memory_format=torch.channels_last)
        self._labels = torch.randint(CLASSES, (n,), generator=generator).to(device)
        self._device = device

    def __call__(self) -> None:
        low = has_bfloat16(self._device)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=low):
            logits = self._model(self._images)
        self._optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), self._labels).backward()
        self._optimizer.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def measure(learner: str, rounds: int, device: str) -> Iterator[Figure]:
    where = resolve_device(device)
    for n in SIZES:
        plain, compiled = (Update(learner, n, where, compiled) for compiled in (False, True))
        began = time.perf_counter()
        compiled()
        compiling = time.perf_counter() - began
        seconds = interleave({"plain": plain, "compiled": compiled}, rounds, warm=2)
        own = sorted(seconds["plain"])[rounds // 2]
        yield figure(
            f"{learner}, n = {n}: plain / compiled",
            ratio(seconds["plain"], seconds["compiled"]),
            compiling_seconds=round(compiling, 1),
            compiling_in_plain_updates=round(compiling / own),
        )


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--learner", nargs="+", default=["small-cnn", "resnet18"])
    options = parser.parse_args()
    figures = [
        item
        for learner in (options.learner[:1] if options.quick else options.learner)
        for item in measure(learner, rounds_of(options), options.device)
    ]
    publish("compiled", "An update by plain torch / by torch.compile", figures, options)


if __name__ == "__main__":
    main()
