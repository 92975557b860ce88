"""Interleaved timing for every benchmark here: what is compared takes turns within one process.

A figure is the median over rounds of a ratio within a round, so that what else the machine does
hits both sides alike. Each benchmark writes one JSON file and one plot; `performance_page.py` turns
the files into docs/performance.md. A machine that had other work when the benchmark began is
written into the file, and the page marks such figures.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np

from gstds.common.files import write_bytes, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "performance"
BUSY_CORES = 0.2

Timed = Callable[[], object]
Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Figure:
    """One ratio, and what it has to reach.

    Attributes:
        case: What was measured.
        value: The median over the rounds.
        low: The lower quartile.
        high: The upper one.
        reach: The figure to reach, None for a figure that only informs.
        at_most: True if lower is better.
        more: Whatever else was seen, by name.
    """

    case: str
    value: float
    low: float
    high: float
    reach: float | None = None
    at_most: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        if self.reach is None:
            return None
        return self.value <= self.reach if self.at_most else self.value >= self.reach


def interleave(
    runners: Mapping[str, Timed], rounds: int, warm: int = 1, rest: float = 0.0
) -> Seconds:
    """Call everything in turn, round after round; return seconds by name, warm rounds left out.

    A runner that returns a float has timed itself. Every other round goes backwards, so that
    nothing always follows the same neighbor. ``rest`` seconds before each call let the threads of
    the one before go to sleep: those of OpenBLAS spin for a while when their work is done.
    """
    seconds: Seconds = {name: [] for name in runners}
    for turn in range(rounds + warm):
        names = list(runners) if turn % 2 == 0 else list(reversed(runners))
        for name in names:
            time.sleep(rest)
            began = time.perf_counter()
            answer = runners[name]()
            took = answer if isinstance(answer, float) else time.perf_counter() - began
            if turn >= warm:
                seconds[name].append(took)
    return seconds


def figure(case: str, values: Sequence[float], **more: Any) -> Figure:
    """Return the figure of one ratio for each round; keywords are `Figure`'s, or kept in more."""
    known = {name: more.pop(name) for name in ("reach", "at_most") if name in more}
    low, middle, high = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return Figure(case, middle, low, high, more={**more, "rounds": len(values)}, **known)


def ratio(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def arguments(doc: str | None, rounds: int = 7) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=None, help=f"default {rounds}; quick: 3")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--out", type=Path, default=None, help="folder of the JSON and the plot")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where a benchmark trains")
    parser.set_defaults(standard_rounds=rounds, others=others())
    return parser


def others(seconds: float = 1.0) -> float:
    """Return how many cores' worth of other work the machine has, by a moment's look."""
    before = _idle_and_all()
    if before is None:
        return os.getloadavg()[0]
    time.sleep(seconds)
    after = _idle_and_all() or before
    idle, every = after[0] - before[0], after[1] - before[1]
    return round((1.0 - idle / max(1, every)) * (os.cpu_count() or 1), 2)


def _idle_and_all() -> tuple[int, int] | None:
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return ticks[3] + ticks[4], sum(ticks)


def rounds_of(options: argparse.Namespace) -> int:
    return int(options.rounds or (3 if options.quick else options.standard_rounds))


def publish(
    name: str, title: str, figures: Sequence[Figure], options: argparse.Namespace, **more: Any
) -> None:
    """Print the figures; write ``NAME.json`` and ``NAME.png``."""
    import torch

    from gstds.train.comparing.compare import hardware, versions

    out = options.out or (RESULTS if options.device == "cpu" else RESULTS / "gpu")
    content = {
        "version": 1,
        "name": name,
        "title": title,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_given(options)]),
        "quick": options.quick,
        "rounds": rounds_of(options),
        "others": options.others,
        "busy": options.others > BUSY_CORES,
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": versions(),
        "figures": [asdict(item) | {"reached": item.reached} for item in figures],
        **more,
    }
    write_json(out / f"{name}.json", content)
    write_bytes(out / f"{name}.png", plot(title, figures))
    for item in figures:
        print(line(item), flush=True)


def _given(options: argparse.Namespace) -> list[str]:
    words = ["--quick"] if options.quick else []
    words += ["--learner", *options.learner] if hasattr(options, "learner") else []
    words += (
        ["--picker", options.picker] if getattr(options, "picker", "hybrid") != "hybrid" else []
    )
    words += ["--device", options.device] if options.device != "cpu" else []
    return words + ([f"--rounds {options.rounds}"] if options.rounds else [])


def line(item: Figure) -> str:
    bound = "" if item.reach is None else f"  ({'≤' if item.at_most else '≥'} {item.reach:g})"
    return f"{item.case}: {item.value:.3f}  [{item.low:.3f}, {item.high:.3f}]{bound}"


def plot(title: str, figures: Sequence[Figure]) -> bytes:
    """Return a bar for each figure, its quartiles, and a tick where it has to reach."""
    from gstds.train.figures.plots import as_png, new_figure

    drawing, axes = new_figure(8.0, 0.9 + 0.36 * len(figures))
    places = np.arange(len(figures))[::-1]
    values = np.array([item.value for item in figures])
    spread = np.array([[item.value - item.low, item.high - item.value] for item in figures]).T
    colors = ["#d55e00" if item.reached is False else "#0072b2" for item in figures]
    axes.barh(places, values, xerr=np.maximum(spread, 0), color=colors, ecolor="#555555")
    for place, item in zip(places, figures, strict=True):
        if item.reach is not None:
            axes.plot([item.reach] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2)
    axes.set_yticks(places, [item.case for item in figures], fontsize=8)
    axes.set_title(f"{title}\nblack: to reach; orange: not reached", fontsize=9, loc="left")
    return as_png(drawing)
