"""What was tried to keep a GPU busy, each against going without it.

    python benchmarks/gpu.py [--quick] [--rounds 7]

Updates replayed from CUDA graphs; pixels that stay on the GPU; the Fiedler vector solved there, one
batch or many at once. Needs a GPU. ResNet-18 at 32 px and small-cnn at 28, random images.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from fiedler import clustered
from interleaved import Figure, arguments, figure, interleave, publish, ratio, rounds_of
from stepping import Stepper, random_images, several

from gstds.spectral.fiedler import fiedler_vector

STEPS = 10
UPDATES = [("small-cnn", n) for n in (32, 128, 1024)] + [("resnet18", n) for n in (32, 128, 1024)]
SIZES = (128, 256, 512, 1024, 2048, 4096, 16384)
DENSE_MAX = 2048
DIMENSION = 1280


def updates(learner: str, n: int, rounds: int) -> Iterator[Figure]:
    with random_images(learner, 4 * n, "cuda") as data:
        both = Stepper.begin("full", data, batch_size=n)
        plain = Stepper.begin("full", data, batch_size=n, cuda_graphs=False)
        copying = Stepper.begin("full", data, batch_size=n)
        device = copying.env.device
        copying.env.loader.pixels = lambda split, rows: split.gather(rows).to(device)
        runs = {"both": both, "plain": plain, "copying": copying}
        seconds = interleave({k: several(v.step, STEPS) for k, v in runs.items()}, rounds)
    milliseconds = {k: round(1e3 * float(np.median(v)) / STEPS, 2) for k, v in seconds.items()}
    yield figure(
        f"{learner}, N = {n}: a step without graphs / with",
        ratio(seconds["plain"], seconds["both"]),
        milliseconds=milliseconds,
    )
    yield figure(
        f"{learner}, N = {n}: a step with pixels copied / kept on the GPU",
        ratio(seconds["copying"], seconds["both"]),
    )


def solved(features: Any, **options: Any) -> None:
    fiedler_vector(features, laplacian="normalized", **options)
    torch.cuda.synchronize()


def solves(n: int, rounds: int) -> Iterator[Figure]:
    features = clustered(n, DIMENSION)
    on_gpu = torch.from_numpy(features).cuda()
    runners = {"cpu": partial(solved, features), "gpu": partial(solved, on_gpu)}
    if n <= DENSE_MAX:
        runners["gpu dense"] = partial(solved, on_gpu, solver="dense")
        runners["gpu matrix-free"] = partial(solved, on_gpu, solver="matrix-free")
    seconds = interleave(runners, rounds, warm=2)
    milliseconds = {k: round(1e3 * float(np.median(v)), 2) for k, v in seconds.items()}
    yield figure(
        f"Fiedler vector, N = {n}: processor / GPU",
        ratio(seconds["cpu"], seconds["gpu"]),
        milliseconds=milliseconds,
    )


def many(count: int, n: int, rounds: int) -> Figure:
    one = clustered(n, DIMENSION)
    features = np.stack([one] * count)
    on_gpu = torch.from_numpy(features).cuda()
    seconds = interleave({"cpu": partial(solved, features), "gpu": partial(solved, on_gpu)}, rounds)
    case = f"Fiedler vectors of {count} batches of {n} at once: processor / GPU"
    return figure(case, ratio(seconds["cpu"], seconds["gpu"]))


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(device="cuda")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this needs a GPU")
    rounds = rounds_of(options)
    figures: list[Figure] = []
    for learner, n in UPDATES[1::3] if options.quick else UPDATES:
        figures += updates(learner, n, rounds)
    for n in SIZES[::3] if options.quick else SIZES:
        figures += solves(n, rounds)
    figures.append(many(32, 128, rounds))
    publish("gpu", "On a GPU: with and without", figures, options)


if __name__ == "__main__":
    main()
