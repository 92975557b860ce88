"""Reference features through `build_store` against the bare forward pass, images a second.

    python benchmarks/reference_features.py [--quick] [--rounds 5]

Random images of 28×28 in memory, EfficientNet-Lite0 without trained weights (they change nothing
here), 64 pixels. Through the store: gather, resize, forward, write, checksums and manifest. Bare:
the network on batches of the same size that lie ready, resized and scaled.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from interleaved import arguments, figure, interleave, publish, ratio, rounds_of
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from gstds.envs.data.images import ArrayImages
from gstds.reference.networks import Reference, make_reference
from gstds.store.feature_store import build_store

BATCH = 256


def network_of(reference: Reference, images: ArrayImages) -> tuple[nn.Module, torch.Tensor]:
    """Return the network that a reference calls, and a batch as it is called with."""
    calls: list[tuple[nn.Module, torch.Tensor]] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.append((module, inputs[0].clone()))

    handle = register_module_forward_pre_hook(note)
    reference.features(images.gather(np.arange(BATCH)))
    handle.remove()
    return calls[0]


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    count = 1024 if options.quick else 4096
    rng = np.random.default_rng(0)
    images = ArrayImages(rng.integers(0, 256, size=(count, 28, 28), dtype=np.uint8))
    reference = make_reference("untrained", image_side=28, device=torch.device("cpu"))
    network, ready = network_of(reference, images)

    def compute(start: int, stop: int) -> np.ndarray:
        parts = [
            reference.features(images.gather(np.arange(at, min(at + BATCH, stop)))).float().numpy()
            for at in range(start, stop, BATCH)
        ]
        return np.concatenate(parts)

    def stored() -> None:
        with tempfile.TemporaryDirectory() as name:
            build_store(
                Path(name) / "store", rows=count, dim=reference.feature_dim, fingerprint="x",
                backbone=dict(reference.identity), compute=compute,
            )  # fmt: skip

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(count // len(ready)):
            network(ready)

    seconds = interleave({"bare": bare, "stored": stored}, rounds_of(options))
    item = figure(
        f"{count:,} images: through the store / bare forward",
        ratio(seconds["bare"], seconds["stored"]),
        reach=0.95,
    )
    publish("reference-features", "Reference features, images a second", [item], options)


if __name__ == "__main__":
    main()
