"""Throughput of worker processes: 12 runs by two workers against one worker of one thread.

    python benchmarks/fanout.py [--workers 2] [--rounds 3] [--dataset fashion-mnist] [--limit 10000]
        [--epochs 4] [--seeds 4]

Both sides do the same runs, tracked in a fresh sqlite store each, one thread a run; they take
turns, so that a busy machine slows both. Starting the worker processes counts. Data and reference
are there before the first round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from train.compare import Comparison, plan
from train.config import RunConfig
from train.fanout import prepare, run_all
from train.mlflow_store import prepare_store
from train.stopping import StopFlag

POLICIES = ("gstds", "random", "full")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--limit", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=4)
    return parser.parse_args()


def comparison(options: argparse.Namespace, folder: Path, workers: int) -> Comparison:
    tracking = f"sqlite:///{folder / 'mlflow.db'}"
    return Comparison(
        base=RunConfig(dataset=options.dataset, limit=options.limit, epochs=options.epochs),
        policies=POLICIES,
        seeds=options.seeds,
        baseline="random",
        name=folder.name,
        folder=folder,
        tracking=tracking,
        experiment="gstds",
        workers=workers,
    )


def seconds(options: argparse.Namespace, workers: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        one = comparison(options, Path(name), workers)
        prepare_store(str(one.tracking))
        jobs = [replace(job, threads=1) for job in plan(one)]
        prepare(jobs, None)
        began = time.perf_counter()
        results = run_all(jobs, one, None, lambda result, old: None, StopFlag())
        took = time.perf_counter() - began
    lost = [result for result in results.values() if result["status"] != "finished"]
    if lost:
        raise RuntimeError(f"{len(lost)} runs did not finish: {lost[0].get('error')}")
    return took


def main() -> None:
    options = arguments()
    count = len(POLICIES) * options.seeds
    ratios = []
    print(f"{count} runs; seconds with 1 worker, with {options.workers}, ratio", flush=True)
    for _ in range(options.rounds):
        alone, together = seconds(options, 1), seconds(options, options.workers)
        ratios.append(alone / together)
        print(f"{alone:8.1f} {together:8.1f} {ratios[-1]:6.2f}", flush=True)
    print(f"throughput of {options.workers} workers over one: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
