"""How the spectral solve grows with the drawn batch N and the features D: table and plot."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_integer
from gstds.common.files import write_bytes, write_json, write_text
from gstds.spectral.fiedler import AUTO_DENSE_MAX, fiedler_vector, spectral_flops
from gstds.train.figures.frame import as_png, new_figure
from gstds.train.figures.tables import lay_out

__all__ = ["measure_overhead", "write_overhead"]

COUNTS = (128, 256, 512, 1024, 2048, 4096, 8192)
DIMENSIONS = (128, 256, 512, 1280, 2048)
_COUNT, _DIMENSION = 1024, 1280
_CLASSES = 10

Row = dict[str, Any]


def measure_overhead(
    *,
    rounds: int = 7,
    counts: Sequence[int] = COUNTS,
    dimensions: Sequence[int] = DIMENSIONS,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[Row]]:
    """Time the solve over N at D = 1,280, and over D at N = 1,024, on one thread's worth of BLAS.

    All cases take turns, round by round, so that a busy machine slows all of them; the first round
    is not counted.

    Args:
        rounds: Rounds that are counted.
        counts: Batch sizes N.
        dimensions: Numbers of features D.
        progress: Called with a phase, what is done, and the total.

    Returns:
        Under ``batch`` and ``features``, rows of ``n``, ``d``, ``milliseconds`` (median),
        ``flops`` and ``exponent``: growth between the row before and this one as a power.

    Raises:
        ValueError: If there are no rounds, or a size is below 2.
    """
    check_integer("rounds", rounds, low=1)
    sizes = [(check_integer("counts", n, low=2), _DIMENSION) for n in counts]
    sizes += [(_COUNT, check_integer("dimensions", d, low=2)) for d in dimensions]
    cases = {size: _clustered(*size) for size in dict.fromkeys(sizes)}
    seconds: dict[tuple[int, int], list[float]] = {size: [] for size in cases}
    for turn in range(rounds + 1):
        for size, features in cases.items():
            began = time.perf_counter()
            fiedler_vector(features)
            seconds[size].append(time.perf_counter() - began)
        if progress:
            progress("rounds", turn, rounds)
    medians = {size: 1e3 * float(np.median(values[1:])) for size, values in seconds.items()}
    return {
        "batch": _rows([(n, _DIMENSION) for n in counts], medians),
        "features": _rows([(_COUNT, d) for d in dimensions], medians),
    }


def _clustered(count: int, dimension: int) -> npt.NDArray[np.float32]:
    """Return non-negative features in clusters, as pooled ReLU features are (N, D)."""
    rng = np.random.Generator(np.random.PCG64(0))
    centers = np.maximum(rng.standard_normal((_CLASSES, dimension), dtype=np.float32), 0)
    noise = 0.5 * rng.standard_normal((count, dimension), dtype=np.float32)
    features: npt.NDArray[np.float32] = np.maximum(
        centers[rng.integers(0, _CLASSES, count)] + noise, 0
    )
    return features


def _rows(sizes: Sequence[tuple[int, int]], medians: dict[tuple[int, int], float]) -> list[Row]:
    rows: list[Row] = []
    for n, d in sizes:
        before = rows[-1] if rows else None
        row = {"n": n, "d": d, "milliseconds": medians[n, d], "flops": spectral_flops(n, d)}
        rows.append({**row, "exponent": _exponent(before, row) if before else None})
    return rows


def _exponent(before: Row, row: Row) -> float | None:
    grown = row["n"] * row["d"] / (before["n"] * before["d"])
    if grown == 1:
        return None
    return math.log(row["milliseconds"] / before["milliseconds"]) / math.log(grown)


def write_overhead(
    folder: Path, rows: dict[str, list[Row]], *, question: str, command: str
) -> Path:
    """Write ``experiment.json``, ``experiment.md`` and ``overhead.png``; return the page's path.

    Raises:
        OSError: If the folder cannot be written.
    """
    note = {"version": 1, "name": "overhead", "question": question, "command": command}
    write_json(folder / "experiment.json", {**note, **rows})
    write_bytes(folder / "overhead.png", as_png(_plot(rows)))
    batch, features = (lay_out(rows[name], _COLUMNS) for name in ("batch", "features"))
    caption = (
        f"Medians of rounds in which all cases take turns. Up to N = {AUTO_DENSE_MAX} the solve is "
        "dense, above it matrix-free. Exponent: growth from the row before as a power."
    )
    parts = ["# Experiment `overhead`", question, f"```\n{command}\n```"]
    parts += [f"## Over the batch N, D = {_DIMENSION}", batch.markdown()]
    parts += [f"## Over the features D, N = {_COUNT}", features.markdown(), caption]
    write_text(folder / "experiment.md", "\n\n".join([*parts, "![Growth](overhead.png)"]) + "\n")
    return folder / "experiment.md"


_COLUMNS = (
    *(("n", "N", "{:,}"), ("d", "D", "{:,}"), ("milliseconds", "ms", "{:.2f}")),
    *(("flops", "charged", "flops"), ("exponent", "exponent", "{:.2f}")),
)


def _plot(rows: dict[str, list[Row]]) -> Any:
    figure, (left, right) = new_figure(9.0, 3.6, columns=2)
    for axes, name, key, label in (
        (left, "batch", "n", f"drawn batch N (D = {_DIMENSION})"),
        (right, "features", "d", f"features D (N = {_COUNT})"),
    ):
        sizes = [row[key] for row in rows[name]]
        axes.loglog(sizes, [row["milliseconds"] for row in rows[name]], "o-", color="#0072b2")
        axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel("milliseconds a solve")
    return figure
