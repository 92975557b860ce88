"""How the spectral solve grows with the drawn batch N and the features D: table and plot.

    python benchmarks/overhead.py [--quick] [--rounds 7] [--out runs/overhead]

The solve is timed over N at D = 1,280, and over D at N = 1,024. All cases take turns, round by
round, so that a busy machine slows all of them. It writes ``overhead.json``, ``overhead.md`` and
``overhead.png``; what they held stands in docs/results/experiments.md.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import arguments, interleave, rounds_of

from gstds.common.files import write_bytes, write_json, write_text
from gstds.spectral.fiedler import AUTO_DENSE_MAX, fiedler_vector, spectral_flops
from gstds.train.figures.plots import as_png, new_figure
from gstds.train.figures.tables import lay_out

COUNTS = (128, 256, 512, 1024, 2048, 4096, 8192)
DIMENSIONS = (128, 256, 512, 1280, 2048)
COUNT, DIMENSION, CLASSES = 1024, 1280, 10
COLUMNS = (
    *(("n", "N", "{:,}"), ("d", "D", "{:,}"), ("milliseconds", "ms", "{:.2f}")),
    *(("flops", "charged", "flops"), ("exponent", "exponent", "{:.2f}")),
)

Row = dict[str, Any]


def clustered(count: int, dimension: int) -> np.ndarray:
    """Return non-negative features in clusters, as pooled ReLU features are (N, D)."""
    rng = np.random.Generator(np.random.PCG64(0))
    centers = np.maximum(rng.standard_normal((CLASSES, dimension), dtype=np.float32), 0)
    noise = 0.5 * rng.standard_normal((count, dimension), dtype=np.float32)
    return np.maximum(centers[rng.integers(0, CLASSES, count)] + noise, 0)


def rows_of(
    sizes: Sequence[tuple[int, int]], medians: Mapping[tuple[int, int], float]
) -> list[Row]:
    """Return rows with what the solve takes, and the growth from the row before as a power."""
    rows: list[Row] = []
    for n, d in sizes:
        row = {"n": n, "d": d, "milliseconds": medians[n, d], "flops": spectral_flops(n, d)}
        exponent = None
        if rows and n * d != rows[-1]["n"] * rows[-1]["d"]:
            slower = row["milliseconds"] / rows[-1]["milliseconds"]
            exponent = math.log(slower) / math.log(n * d / (rows[-1]["n"] * rows[-1]["d"]))
        rows.append({**row, "exponent": exponent})
    return rows


def plot(tables: Mapping[str, list[Row]]) -> Any:
    figure, (left, right) = new_figure(9.0, 3.6, columns=2)
    for axes, name, key, label in (
        (left, "batch", "n", f"drawn batch N (D = {DIMENSION})"),
        (right, "features", "d", f"features D (N = {COUNT})"),
    ):
        sizes = [row[key] for row in tables[name]]
        axes.loglog(sizes, [row["milliseconds"] for row in tables[name]], "o-", color="#0072b2")
        axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel("milliseconds a solve")
    return figure


def main() -> None:
    options = arguments(__doc__).parse_args()
    folder = options.out or Path("runs/overhead")
    counts, dimensions = (COUNTS[:4], DIMENSIONS[:3]) if options.quick else (COUNTS, DIMENSIONS)
    batch, features = [(n, DIMENSION) for n in counts], [(COUNT, d) for d in dimensions]
    cases = {size: clustered(*size) for size in (*batch, *features)}
    names = {f"{n} x {d}": (n, d) for n, d in cases}
    runners = {name: lambda size=size: fiedler_vector(cases[size]) for name, size in names.items()}
    seconds = interleave(runners, rounds_of(options))
    medians = {names[name]: 1e3 * float(np.median(took)) for name, took in seconds.items()}
    tables = {"batch": rows_of(batch, medians), "features": rows_of(features, medians)}
    command = shlex.join(["python", "benchmarks/overhead.py", *sys.argv[1:]])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "overhead.json", {"version": 1, "command": command, **tables})
    write_bytes(folder / "overhead.png", as_png(plot(tables)))
    parts = [
        "# How does the spectral solve grow with the batch and the features?",
        f"```\n{command}\n```",
        *(f"## Over the batch N, D = {DIMENSION}", lay_out(tables["batch"], COLUMNS).markdown()),
        *(f"## Over the features D, N = {COUNT}", lay_out(tables["features"], COLUMNS).markdown()),
        "Medians of rounds in which all cases take turns. Up to "
        f"N = {AUTO_DENSE_MAX} the solve is dense, above it matrix-free. Exponent: growth from the "
        "row before as a power.",
        "![Growth](overhead.png)",
    ]
    write_text(folder / "overhead.md", "\n\n".join(parts) + "\n")
    print((folder / "overhead.md").read_text())


if __name__ == "__main__":
    main()
