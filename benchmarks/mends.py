"""What was mended for speed, before over after; and what was tried and left.

    python benchmarks/mends.py [--quick] [--rounds 7]

Before and after take turns. They give the same result to the bit, or the same picks, but where the
number of threads changes: there to rounding. Above 1 it pays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from interleaved import Figure, arguments, figure, interleave, publish, ratio, rounds_of
from stepping import SHAPES

import gstds.envs.learner.learner
from gstds.envs.learner.learner import Learner, threads_for
from gstds.options.world import LearnerOptions
from gstds.selection.weights import k_center

CPU = torch.device("cpu")


def shape_of(name: str) -> tuple[int, int, int]:
    side = SHAPES[name]
    return (side[2] if len(side) == 3 else 1, side[0], side[1])


def learner(name: str) -> Learner:
    options = LearnerOptions(learner=name, learning_rate=0.01)
    return Learner(options, shape=shape_of(name), classes=10, seed=0, device=CPU)


def updating(one: Learner, count: int, times: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    shape = shape_of(one.options.name)
    images = torch.from_numpy(rng.standard_normal((count, *shape), dtype=np.float32))
    images = images.to(memory_format=torch.channels_last)
    labels, weights = torch.from_numpy(rng.integers(0, 10, count)), torch.ones(count)
    one.set_progress(0.9)
    return lambda: [one.update(images, labels, weights, count, step=0) for _ in range(times)]


def one_pass(name: str, count: int, times: int, rounds: int) -> Figure:
    plain, fast = learner(name), learner(name)
    for group in plain.optimizer.param_groups:
        group["fused"] = False
    runners = {"plain": updating(plain, count, times), "fast": updating(fast, count, times)}
    seconds = interleave(runners, rounds, warm=2)
    case = f"weights updated in one pass: {name}, an update on {count}"
    return figure(case, ratio(seconds["plain"], seconds["fast"]), kept=True)


def few_threads(name: str, count: int, times: int, rounds: int) -> Figure:
    """Compare all of torch's threads with as many as an update is worth."""
    one = learner(name)
    update = updating(one, count, times)

    def with_all() -> None:
        wise = gstds.envs.learner.learner.limited_threads
        gstds.envs.learner.learner.limited_threads = lambda *_: contextlib.nullcontext()  # type: ignore[assignment]
        try:
            update()
        finally:
            gstds.envs.learner.learner.limited_threads = wise

    seconds = interleave({"all": with_all, "few": update}, rounds, warm=2)
    taken = threads_for(count * one.train_flops, torch.get_num_threads())
    case = f"threads by the update's size: {name}, an update on {count}"
    return figure(case, ratio(seconds["all"], seconds["few"]), kept=True, threads_taken=taken)


def one_at_a_time(features: np.ndarray, k: int, noise: np.ndarray) -> np.ndarray:
    """`k_center` as it was: the distances to each pick, when it is picked."""
    rows = features.astype(np.float64)
    picked = [int(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = ((rows - rows[picked[0]]) ** 2).sum(axis=1)
    while len(picked) < k:
        nearest[picked[-1]] = -1.0
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((rows - rows[picked[-1]]) ** 2).sum(axis=1))
    return np.sort(np.array(picked))


def centers(n: int, rounds: int) -> Figure:
    rng = np.random.default_rng(0)
    features = np.abs(rng.standard_normal((n, 1280), dtype=np.float32))
    noise = rng.random(n)
    same = np.array_equal(one_at_a_time(features, n // 2, noise), k_center(features, n // 2, noise))
    if not same:
        raise RuntimeError("k_center picks others than one distance at a time does")
    runners = {
        "before": lambda: one_at_a_time(features, n // 2, noise),
        "after": lambda: k_center(features, n // 2, noise),
    }
    seconds = interleave(runners, rounds)
    case = f"k-center by one product: half of N = {n}"
    return figure(case, ratio(seconds["before"], seconds["after"]), kept=True)


def rounded_counts(name: str, rounds: int, times: int) -> Figure:
    """Compare the time per sample at counts that are no multiples of 16 and at those that are."""
    odd, even = (67, 77, 89), (64, 80, 96)
    one = learner(name)
    runners = {str(count): updating(one, count, times) for count in (*odd, *even)}
    seconds = interleave(runners, rounds, warm=2)

    def per_sample(counts: tuple[int, ...], turn: int) -> float:
        return sum(seconds[str(c)][turn] for c in counts) / sum(counts)

    values = [per_sample(odd, i) / per_sample(even, i) for i in range(rounds)]
    return figure(f"kept counts in multiples of 16: {name}, a sample", values, kept=False)


def evaluation_batches(name: str, rounds: int) -> Figure:
    one = learner(name)
    images = torch.randn((2048, *shape_of(name)), generator=torch.Generator().manual_seed(0))
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(2048, dtype=torch.int64)

    def evaluate(size: int) -> Callable[[], object]:
        return lambda: one.evaluate(zip(images.split(size), labels.split(size), strict=True))

    seconds = interleave({"512": evaluate(512), "2048": evaluate(2048)}, rounds)
    case = f"evaluation in batches of 2,048, not 512: {name}"
    return figure(case, ratio(seconds["512"], seconds["2048"]), kept=False)


def measure(quick: bool, rounds: int) -> Iterator[Figure]:
    yield one_pass("small-cnn", 64, 10, rounds)
    yield one_pass("resnet18", 32, 1, rounds)
    for count in (16, 32, 64):
        yield few_threads("small-cnn", count, 10, rounds)
    yield few_threads("mlp", 64, 50, rounds)
    yield centers(128, rounds)
    yield centers(512, rounds)
    yield rounded_counts("small-cnn", rounds, 5)
    yield evaluation_batches("small-cnn", rounds)
    if not quick:
        yield rounded_counts("resnet18", rounds, 1)


def main() -> None:
    options = arguments(__doc__).parse_args()
    publish(
        "mends",
        "Before / after",
        list(measure(options.quick, rounds_of(options))),
        options,
    )


if __name__ == "__main__":
    main()
