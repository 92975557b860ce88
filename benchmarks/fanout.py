"""Throughput of worker processes: 12 runs by two workers against one worker of one thread.

    python benchmarks/fanout.py [--workers 2] [--rounds 3] [--dataset fashion-mnist] [--limit 10000]
        [--epochs 10] [--seeds 4]

Both sides are the whole command `gstds compare`, from its start to its report: the same runs,
tracked in a fresh sqlite store each, one thread a run. They take turns, so that a busy machine
slows both. The second ratio leaves out what the command takes without any run, which is timed by
asking for the same comparison again: starting, and writing the report. Data and reference are
there before the first round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLICIES = ("gstds", "random", "full")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--limit", default="10000")
    parser.add_argument("--epochs", default="10")
    parser.add_argument("--seeds", type=int, default=4)
    return parser.parse_args()


def command(options: argparse.Namespace, folder: Path, workers: int) -> list[str]:
    words = [
        sys.executable,
        "-m",
        "gstds.train.cli.main",
        "compare",
        "--policies",
        *POLICIES,
        "--no-controls",
    ]
    words += ["--seeds", str(options.seeds), "--workers", str(workers), "--threads", "1"]
    words += ["--dataset", options.dataset, "--limit", options.limit, "--epochs", options.epochs]
    return [*words, "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}", "--out", str(folder)]


def seconds(words: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(words, env=os.environ | {"CI": "true"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - began


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as name:  # data and reference, if they are not there
        few = argparse.Namespace(**vars(options) | {"seeds": 1, "epochs": "1"})
        seconds(command(few, Path(name), 1))
    count = len(POLICIES) * options.seeds
    whole, runs = [], []
    print(f"{count} runs; seconds with 1 worker, with {options.workers}, ratio, ratio of the runs")
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            first = command(options, Path(one), 1)
            alone, together = (
                seconds(first),
                seconds(command(options, Path(other), options.workers)),
            )
            idle = seconds(first)
        whole.append(alone / together)
        runs.append((alone - idle) / (together - idle))
        print(f"{alone:8.1f} {together:8.1f} {whole[-1]:6.2f} {runs[-1]:6.2f}", flush=True)
    print(
        f"throughput of {options.workers} workers over one: whole command "
        f"{statistics.median(whole):.2f}, runs alone {statistics.median(runs):.2f}"
    )


if __name__ == "__main__":
    main()
