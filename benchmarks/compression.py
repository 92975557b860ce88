"""What shorter features do to the spectral scores: error against the features as they are.

    python benchmarks/compression.py [--dataset digits fashion-mnist] [--limit 10000]
        [--batch 128 512] [--batches 40] [--reference efficientnet-lite0] [--json FILE]

For each compression, data set and batch size: uniformly drawn batches, the Fiedler vector of each
from the full features (float16, as stored) and from the shortened ones. Shown, over the batches:
the cosine of the two vectors (signs aside), median and lowest tenth; the share of the half with the
largest |score| that both choose, median, where chance gives .50; the root mean squared error of the
cosines between samples. Principal directions are found from all training features of the data set.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from gstds.common.files import write_json
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.task import load_task
from gstds.spectral.fiedler import LAPLACIANS, fiedler_vector
from gstds.store.compression import Compression, fit_basis, parse_compression, project
from gstds.store.format import DTYPES, decode, encode

NAMES = ("int8", "pca-256", "pca-128", "pca-64", "random-256", "random-128", "pca-128-int8")
NAMES += ("random-128-int8",)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", nargs="+", default=["digits", "fashion-mnist"])
    parser.add_argument("--limit", type=int, default=10000)
    parser.add_argument("--reference", default="efficientnet-lite0")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--json", default=None)
    return parser.parse_args()


def features_of(options: argparse.Namespace, dataset: str) -> np.ndarray:
    limit = None if dataset == "digits" else options.limit
    chosen = EnvOptions(
        dataset=dataset, limit=limit, reference=options.reference, observe=("features",)
    )
    reference = load_task(chosen).reference
    assert reference is not None  # noqa: S101  (the observation asks for it)
    return reference.features(np.arange(len(reference.rows)))


def shortened(features: np.ndarray, compression: Compression) -> np.ndarray:
    basis = fit_basis(compression, features.shape[1], features)
    short = project(features, basis)
    rows = short / np.linalg.norm(short, axis=1, keepdims=True)
    return decode(encode(rows, DTYPES[compression.dtype]))


def errors(full: np.ndarray, short: np.ndarray, batches: list[Any], laplacian: str) -> dict:
    cosines, same, squares = [], [], []
    for rows in batches:
        one = fiedler_vector(full[rows], laplacian=laplacian).scores
        other = fiedler_vector(short[rows], laplacian=laplacian).scores
        cosines.append(abs(float(np.dot(one, other))))
        half = len(rows) // 2
        chosen = [set(np.argsort(-np.abs(scores))[:half].tolist()) for scores in (one, other)]
        same.append(len(chosen[0] & chosen[1]) / half)
        apart = full[rows] @ full[rows].T - short[rows] @ short[rows].T
        squares.append(float(np.mean(apart[np.triu_indices(len(rows), 1)] ** 2)))
    return {
        "cosine": float(np.median(cosines)),
        "cosine_p10": float(np.quantile(cosines, 0.1)),
        "same_half": float(np.median(same)),
        "similarity_rmse": float(np.sqrt(np.mean(squares))),
    }


def main() -> None:
    options = arguments()
    rng = np.random.default_rng(0)
    results = []
    print("data N Laplacian compression bytes/row  cosine (lowest tenth)  same half  similarity")
    for dataset in options.dataset:
        full = features_of(options, dataset)
        short = {name: shortened(full, parse_compression(name)) for name in NAMES}
        for size in options.batch:
            count = min(options.batches, 20 * len(full) // size)
            batches = [rng.choice(len(full), size, replace=False) for _ in range(count)]
            for laplacian in LAPLACIANS:
                for name, rows in short.items():
                    width = rows.shape[1] * DTYPES[parse_compression(name).dtype].itemsize
                    found = errors(full, rows, batches, laplacian)
                    results.append(
                        {"dataset": dataset, "batch": size, "laplacian": laplacian}
                        | {"compression": name, "bytes": width, "batches": count}
                        | found
                    )
                    print(
                        f"{dataset} {size} {laplacian} {name} {width}  {found['cosine']:.4f}"
                        f" ({found['cosine_p10']:.4f})  {found['same_half']:.3f}"
                        f"  {found['similarity_rmse']:.4f}",
                        flush=True,
                    )
    if options.json:
        write_json(options.json, {"reference": options.reference, "results": results})


if __name__ == "__main__":
    main()
