"""Time the two Fiedler solvers against scipy's, and find where they cross.

    python benchmarks/fiedler.py [--dimension 1280] [--sizes 128 256 512 ...] [--rounds 9]

Competitors run interleaved, so that a busy machine slows all of them; medians are shown. Every
one starts from the same float32 features and ends with the Fiedler vector. `eigh` is
scipy.linalg.eigh on the float64 Laplacian, two lowest pairs, threads as scipy takes them; `full`
is numpy.linalg.eigh on the same matrix.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg

from gstds.spectral.fiedler import AUTO_DENSE_MAX, LAPLACIANS, fiedler_vector

FULL_MAX = 512
DENSE_MAX = 4096


def clustered(count: int, dimension: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = np.maximum(rng.standard_normal((10, dimension), dtype=np.float32), 0)
    noise = 0.5 * rng.standard_normal((count, dimension), dtype=np.float32)
    return np.maximum(centers[rng.integers(0, 10, count)] + noise, 0)


def laplacian_of(features: np.ndarray, laplacian: str) -> np.ndarray:
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows @ rows.T
    sums = similarity.sum(axis=1)
    if laplacian == "normalized":
        return np.eye(len(sums)) - similarity / np.sqrt(np.outer(sums, sums))
    return np.diag(sums) - similarity


def competitors(features: np.ndarray, laplacian: str) -> dict[str, Callable[[], object]]:
    def ours(solver: str) -> Callable[[], object]:
        return lambda: fiedler_vector(features, laplacian=laplacian, solver=solver)

    found: dict[str, Callable[[], object]] = {"matrix-free": ours("matrix-free")}
    if len(features) <= DENSE_MAX:
        found["dense"] = ours("dense")
        found["eigh"] = lambda: scipy.linalg.eigh(
            laplacian_of(features, laplacian), subset_by_index=[0, 1]
        )
    if len(features) <= FULL_MAX:
        found["full"] = lambda: np.linalg.eigh(laplacian_of(features, laplacian))
    return found


def measure(features: np.ndarray, laplacian: str, rounds: int) -> dict[str, float]:
    runners = competitors(features, laplacian)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 1):
        for name, run in runners.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * float(np.median(values[1:])) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimension", type=int, default=1280)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"D = {options.dimension}, float32 features, medians of {options.rounds}, milliseconds")
    for laplacian in LAPLACIANS:
        print(f"{laplacian}:  N  dense  matrix-free  eigh  full  eigh/dense  dense/matrix-free")
        for size in options.sizes:
            rounds = options.rounds if size <= 1024 else max(3, options.rounds // 3)
            row = measure(clustered(size, options.dimension), laplacian, rounds)
            dense, free, eigh = (row.get(k, np.nan) for k in ("dense", "matrix-free", "eigh"))
            print(
                f"{size:>18}  {dense:.2f}  {free:.2f}  {eigh:.2f}  {row.get('full', np.nan):.2f}"
                f"  {eigh / dense:.2f}  {dense / free:.2f}",
                flush=True,
            )
    print(f"auto is dense up to N = {AUTO_DENSE_MAX}")


if __name__ == "__main__":
    main()
