"""`fiedler_vector` against numpy, scipy, scikit-learn and torch, at the same accuracy.

    python benchmarks/fiedler_rivals.py [--quick] [--rounds 7]

Every rival starts from the same float32 features (clustered, not negative, D = 1,280) and ends in
the vector of the second smallest eigenvalue. One whose |cos| to float64 `eigh` is below .9999 is
not at the same accuracy and is left out; how far off it was is noted. Iterative rivals get the
loosest of a few tolerances at which they are accurate, and eigsh the matrix-free operator.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from fiedler import clustered, laplacian_of
from interleaved import Figure, arguments, figure, interleave, publish, ratio, rounds_of

from gstds.spectral.fiedler import fiedler_vector

DIMENSION = 1280
SIZES = (128, 256, 512, 1024, 2048, 4096)
QUICK = (128, 512)
FULL_EIGH_MAX = 512
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-6)
REST = 0.2
DENSE = ("numpy eigh", "scipy eigh")

Solve = Callable[[], np.ndarray]


def unit_rows(features: np.ndarray) -> np.ndarray:
    rows = features.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def operator(features: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return c·(I - D^-½ S D^-½) turned over, so that what is wanted is largest, and D^½·1."""
    rows = unit_rows(features)
    degrees = rows @ rows.sum(axis=0)
    scaled = rows / np.sqrt(degrees)[:, None]
    trivial = np.sqrt(degrees / degrees.sum())

    def apply(x: np.ndarray) -> np.ndarray:
        x = x.reshape(len(scaled), -1)
        return scaled @ (scaled.T @ x) - trivial[:, None] * (trivial @ x)

    shape = (len(scaled),) * 2
    made = scipy.sparse.linalg.LinearOperator(shape, matvec=apply, matmat=apply, dtype=np.float64)
    return made, trivial


def eigsh(features: np.ndarray, tolerance: float) -> np.ndarray:
    made, _ = operator(features)
    start = np.random.default_rng(0).standard_normal(len(features))
    return scipy.sparse.linalg.eigsh(made, k=1, which="LA", tol=tolerance, v0=start)[1][:, 0]


def torch_lobpcg(features: np.ndarray, tolerance: float) -> np.ndarray:
    matrix = torch.from_numpy(laplacian_of(features, "normalized"))
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((len(features), 2)))
    return torch.lobpcg(matrix, X=start, largest=False, tol=tolerance, niter=200)[1][:, 1].numpy()


def sklearn_embedding(features: np.ndarray, tolerance: float) -> np.ndarray:
    from sklearn.manifold import spectral_embedding

    rows = unit_rows(features)
    similarity = rows @ rows.T  # it takes the diagonal out of the degrees: see `reference_of`
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spectral_embedding(
            similarity, n_components=1, eigen_solver="arpack", eigen_tol=tolerance, random_state=0
        )[:, 0]


def dense(features: np.ndarray, which: str) -> np.ndarray:
    matrix = laplacian_of(features, "normalized")
    if which == "numpy eigh":
        return np.linalg.eigh(matrix)[1][:, 1]
    return scipy.linalg.eigh(matrix, subset_by_index=[0, 1])[1][:, 1]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(abs(first @ second) / np.linalg.norm(first) / np.linalg.norm(second))


def without_diagonal(features: np.ndarray) -> np.ndarray:
    """Return what `spectral_embedding` is after: it sets the similarity's diagonal to zero."""
    rows = unit_rows(features)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, 0.0)
    roots = 1.0 / np.sqrt(similarity.sum(axis=1))
    laplacian = np.eye(len(roots)) - similarity * np.outer(roots, roots)
    return scipy.linalg.eigh(laplacian, subset_by_index=[0, 1])[1][:, 1] * roots


def accurate(features: np.ndarray) -> tuple[dict[str, Solve], dict[str, float]]:
    """Return the rivals at the accuracy asked for, and the |cos| of those that miss it."""
    exact = dense(features, "scipy eigh")
    solvers: dict[str, Solve] = {"scipy eigh": lambda: dense(features, "scipy eigh")}
    if len(features) <= FULL_EIGH_MAX:
        solvers["numpy eigh"] = lambda: dense(features, "numpy eigh")
    missed = {}
    iterative = {"eigsh": (eigsh, exact), "torch.lobpcg": (torch_lobpcg, exact)}
    iterative["spectral_embedding"] = (sklearn_embedding, without_diagonal(features))
    for name, (solve, target) in iterative.items():
        for tolerance in TOLERANCES:
            off = cosine(solve(features, tolerance), target)
            if off >= 0.9999:
                solvers[name] = lambda solve=solve, tol=tolerance: solve(features, tol)
                break
        else:
            missed[name] = off
    return solvers, missed


def measure(size: int, rounds: int) -> list[Figure]:
    features = clustered(size, DIMENSION)
    solvers, missed = accurate(features)
    ours = fiedler_vector(features, laplacian="normalized", sign="raw")
    off = cosine(ours.scores, dense(features, "scipy eigh"))
    runners = {"ours": lambda: fiedler_vector(features, laplacian="normalized"), **solvers}
    seconds = interleave(runners, rounds, rest=REST)
    medians = {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
    more = {"milliseconds": {k: round(v, 2) for k, v in medians.items()}, "cosine": round(off, 6)}
    more |= {"not_accurate": missed}
    best = min(solvers, key=lambda name: medians[name])
    if size <= 512:
        allowed = [1.1 * t + 2e-4 for t in seconds[best]]
        case = f"N = {size}: ours / (1.1 best + .2 ms), best is {best}"
        return [figure(case, ratio(seconds["ours"], allowed), reach=1.0, at_most=True, **more)]
    fastest = min((n for n in solvers if n in DENSE), key=lambda name: medians[name])
    iterative = min((n for n in solvers if n not in DENSE), key=lambda name: medians[name])
    large = size >= 2048
    return [
        figure(f"N = {size}: {fastest} / ours", ratio(seconds[fastest], seconds["ours"]),
               reach=10.0 if large else None, **more),
        figure(f"N = {size}: {iterative} / ours", ratio(seconds[iterative], seconds["ours"]),
               reach=1.0 if large else None, **more),
    ]  # fmt: skip


def main() -> None:
    options = arguments(__doc__).parse_args()
    figures: list[Figure] = []
    for size in QUICK if options.quick else SIZES:
        rounds = rounds_of(options) if size <= 1024 else min(5, rounds_of(options))
        figures += measure(size, rounds)
        print(figures[-1], flush=True)
    publish("fiedler", "The Fiedler vector against other solvers, one batch", figures, options)


if __name__ == "__main__":
    main()
