"""How the matrix-free solve grows: seconds, memory, and share of the memory's bandwidth.

    python benchmarks/fiedler_growth.py [--quick] [--rounds 5]

N = 32,768 and 131,072 at D = 512 (quick: 8,192 and 32,768), uniform features, unnormalized,
in turns.
The bandwidth is that of summing an array that no cache holds, in the same rounds. A solve reads the
features six times and writes the factor once to set up, then reads that twice for each block it is
applied to: one at the start, one an iteration. Memory: the peak above the features, over them.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import arguments, figure, interleave, publish, ratio, rounds_of

from gstds.spectral.fiedler import fiedler_vector

DIMENSION = 512


def uniform(size: int) -> np.ndarray:
    return np.random.default_rng(0).random((size, DIMENSION), dtype=np.float32)


def solve(features: np.ndarray) -> Any:
    return fiedler_vector(features, solver="matrix-free")


def peak_kilobytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def memory(size: int, answer: Any) -> None:
    """Tell by how much solving raises the process's peak over holding the features."""
    fiedler_vector(uniform(256), solver="matrix-free")
    features = uniform(size)
    before = peak_kilobytes()
    solve(features)
    answer.put((peak_kilobytes() - before) * 1024 / features.nbytes)


def memory_of(size: int) -> float:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=memory, args=(size, answer))
    process.start()
    share = float(answer.get(timeout=300))
    process.join()
    return share


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    small, large = (8192, 32768) if options.quick else (32768, 131072)
    cases = {size: uniform(size) for size in (small, large)}
    stream = torch.from_numpy(uniform(large))
    runners = {str(size): lambda rows=rows: solve(rows) for size, rows in cases.items()}
    seconds = interleave({"stream": stream.sum, **runners}, rounds_of(options))
    figures = [
        figure(f"t({large:,}) / t({small:,})", ratio(seconds[str(large)], seconds[str(small)]),
               reach=5.0, at_most=True)
    ]  # fmt: skip
    for size, rows in cases.items():
        iterations = int(solve(rows).iterations)
        traffic = (7 + 2 * (1 + iterations)) * rows.nbytes
        shares = [
            (traffic / took) / (stream.nbytes / read)
            for took, read in zip(seconds[str(size)], seconds["stream"], strict=True)
        ]
        name = f"N = {size:,}: share of the bandwidth"
        figures.append(figure(name, shares, reach=0.7, iterations=iterations))
    held = memory_of(large)
    name = f"N = {large:,}: peak memory / features"
    figures.append(figure(name, [held], reach=2.0, at_most=True))
    publish("fiedler-growth", "Growth of the matrix-free solve, D = 512", figures, options)


if __name__ == "__main__":
    main()
