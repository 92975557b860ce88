"""Open a large feature store and gather batches from it.

    python benchmarks/store.py [--shape 1000000x1280 10000000x512] [--batch 512] [--dtype float16]
        [--rounds 20] [--json FILE]

The store is synthetic: zero rows in a sparse file, with a whole manifest and true checksums, made
in --folder (default: the system's temporary folder) and removed afterwards. It has the pages of a
real store of that shape, so that reading costs what it costs there. Shown are medians, in
milliseconds: opening; the first gather of a batch (every row is checked by its checksum, and the
system gives its pages); the same batches warm, with their losses; and the same rows by
numpy.load(mmap_mode="r")[rows].astype("float32"), which checks nothing. Both take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from gstds.common.files import write_json
from gstds.store.feature_store import FeatureStore
from gstds.store.format import (
    CHECKS_DTYPE,
    CHECKS_NAME,
    DATA_NAME,
    DTYPES,
    MANIFEST_NAME,
    array_header,
    checksum,
    make_manifest,
    row_checksums,
)

CHUNK = 1024


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", nargs="+", default=["1000000x1280", "10000000x512"])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float16")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--json", default=None)
    return parser.parse_args()


@contextmanager
def synthetic_store(parent: str | None, rows: int, dim: int, dtype: str) -> Iterator[Path]:
    """Make a store of zero rows whose features take no room on the disk."""
    numbers = DTYPES[dtype]
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        header = array_header(rows, dim, numbers)
        (folder / DATA_NAME).write_bytes(header)
        os.truncate(folder / DATA_NAME, len(header) + rows * dim * numbers.itemsize)
        of_a_row = row_checksums(np.zeros((1, dim), numbers))[0]
        table = np.full(rows, of_a_row, CHECKS_DTYPE)
        table.tofile(folder / CHECKS_NAME)
        sums = [checksum(table[start : start + CHUNK]) for start in range(0, rows, CHUNK)]
        manifest = make_manifest(
            rows=rows,
            dim=dim,
            dtype=numbers,
            chunk_rows=CHUNK,
            fingerprint="synthetic",
            backbone={"reference": "none"},
            checksums=sums,
        )
        write_json(folder / MANIFEST_NAME, manifest)
        yield folder


def milliseconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - began)


def measure(options: argparse.Namespace, rows: int, dim: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, rows, options.batch) for _ in range(options.rounds)]
    losses = rng.random(rows, dtype=np.float32)
    with synthetic_store(options.folder, rows, dim, options.dtype) as folder:
        on_disk = sum(p.stat().st_blocks * 512 for p in folder.iterdir())
        opening = [milliseconds(lambda: FeatureStore.open(folder).close()) for _ in range(5)]
        store = FeatureStore.open(folder)
        plain = np.load(folder / DATA_NAME, mmap_mode="r", allow_pickle=False)
        first = [milliseconds(lambda b=b: store.gather(b)) for b in batches]
        warm, numpy = [], []
        for batch in batches:
            warm.append(milliseconds(lambda b=batch: (store.gather(b), losses[b])))
            numpy.append(
                milliseconds(lambda b=batch: (np.asarray(plain[b]).astype("float32"), losses[b]))
            )
        store.close()
    return {
        "rows": rows,
        "dim": dim,
        "dtype": options.dtype,
        "batch": options.batch,
        "gigabytes": rows * dim * DTYPES[options.dtype].itemsize / 1e9,
        "megabytes_on_disk": on_disk / 1e6,
        "open_ms": float(np.median(opening)),
        "first_open_ms": opening[0],
        "first_touch_ms": float(np.median(first)),
        "warm_ms": float(np.median(warm)),
        "warm_p90_ms": float(np.quantile(warm, 0.9)),
        "numpy_ms": float(np.median(numpy)),
        "numpy_over_store": float(np.median(np.array(numpy) / np.array(warm))),
    }


def main() -> None:
    options = arguments()
    results = []
    print(f"batches of {options.batch}, {options.dtype}, {options.rounds} rounds; milliseconds")
    print("rows x dim        GB   open  first touch  warm  (90%)  numpy  numpy/store", flush=True)
    for shape in options.shape:
        rows, dim = (int(part) for part in shape.split("x"))
        r = measure(options, rows, dim)
        results.append(r)
        print(
            f"{shape:>14} {r['gigabytes']:5.1f} {r['open_ms']:6.1f} {r['first_touch_ms']:12.2f}"
            f" {r['warm_ms']:5.2f} {r['warm_p90_ms']:6.2f} {r['numpy_ms']:6.2f}"
            f" {r['numpy_over_store']:12.2f}",
            flush=True,
        )
    if options.json:
        versions = {"python": platform.python_version(), "numpy": np.__version__}
        content = {"processor": platform.processor(), "versions": versions, "results": results}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
