"""Compare `best` at a share of the compute with full training at all of it, seed by seed.

    python benchmarks/best.py --out DIR --dataset digits [--seeds 10] [--budget .25] [--epochs 32]
        [--limit N] [--label-noise P] [--duplicates P] [--imbalance P] [--augment | --no-augment]
        [--rows full best random ...] [--workers 2]

Rows: `full` trains on everything for all its epochs; all others stop at the budget: `best`,
`best-trusting` (no reference), `short-full` (everything, fewer epochs), `random` (as many of each
batch as `best` keeps, at random) and `random-distill` (the same; half of the loss is distillation
of the reference). A name in `-fast` is the same at twice the learning rate: `best` trains at twice
the weight. Runs that DIR holds already are not repeated, so that more seeds can be added later.
Differences are paired by seed. Writes a table and a plot into DIR.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gstds.common.files import write_text
from gstds.train.figures.plots import plot_accuracy_against_compute
from gstds.train.figures.statistics import confidence_half_width, paired_t, sign_flip_p, summarize
from gstds.train.running.options import RunConfig
from gstds.train.running.run import execute, finished_result
from gstds.train.running.setup import make_env, make_run_policy

QUARTER = {"policy": "random", "schedule": "constant", "keep": 0.25}
ROWS: dict[str, dict[str, Any]] = {
    "full": {"policy": "full", "setting": "equal-epochs"},
    "full-fast": {"policy": "full", "setting": "equal-epochs", "learning_rate": 0.2},
    "best": {"policy": "best"},
    "best-trusting": {"policy": "best", "policy_params": {"doubt": 0}},
    "random": QUARTER,
    "random-fast": QUARTER | {"learning_rate": 0.2},
    "random-distill": QUARTER | {"distill": 0.5},
    "random-distill-fast": QUARTER | {"distill": 0.5, "learning_rate": 0.2},
    "short-full": {"policy": "full"},
    "short-full-fast": {"policy": "full", "learning_rate": 0.2},
}
AGAINST = ("full", "full-fast", "random", "random-fast")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--label-noise", type=float, default=0.0)
    parser.add_argument("--duplicates", type=float, default=0.0)
    parser.add_argument("--imbalance", type=float, default=0.0)
    parser.add_argument("--augment", action=argparse.BooleanOptionalAction)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--budget", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--learner", default="small-cnn")
    parser.add_argument("--keep", type=float, default=0.25, help="of best and random")
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args()


def config_of(row: str, seed: int, options: argparse.Namespace) -> RunConfig:
    own = {"setting": "equal-budget", "budget": options.budget, **ROWS[row]}
    if own["policy"] == "random":
        own["keep"] = options.keep
    elif own["policy"] == "best":
        own["policy_params"] = own.get("policy_params", {}) | {"keep": options.keep}
    return RunConfig(
        **own,
        dataset=options.dataset,
        limit=options.limit,
        label_noise=options.label_noise,
        duplicates=options.duplicates,
        imbalance=options.imbalance,
        augment=options.augment,
        epochs=options.epochs,
        learner=options.learner,
        evaluations=8,
        seed=seed,
    )


def result_of(row: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder = options.out / f"{row}-{seed}"
    return finished_result(folder) or execute(
        config_of(row, seed, options), folder, checkpoint_every=0
    )


def line(row: str, runs: dict[str, list[dict[str, Any]]]) -> str:
    accuracy = {name: 100 * np.array([r["test_accuracy"] for r in runs[name]]) for name in runs}
    mine = runs[row]
    cells = [row, str(len(mine)), f"{accuracy[row].mean():.2f} ± {_half(accuracy[row])}"]
    cells += [_gap(accuracy[row], accuracy.get(other), other == row) for other in AGAINST]
    flops = np.mean([r["charged_flops"] / r["full_flops"] for r in mine])
    reference = np.mean([r["reference_flops"] / r["full_flops"] for r in mine])
    worst = 100 * np.mean([r["worst_class_accuracy"] for r in mine])
    seconds = np.mean([r["seconds"] for r in mine])
    cells += [f"{worst:.1f}", f"{flops:.3f}", f"{reference:.2f}", f"{seconds:.1f}"]
    return "| " + " | ".join(cells) + " |"


def _gap(mine: Any, other: Any, same: bool) -> str:
    if other is None or same:
        return "-"
    gap = list(mine - other)
    return (
        f"{np.mean(gap):+.2f} ± {_half(gap)} (p {_p(paired_t(gap))}, flip {_p(sign_flip_p(gap))})"
    )


def _half(values: Any) -> str:
    half = confidence_half_width(list(values))
    return "?" if half is None else f"{half:.2f}"


def _p(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"


def all_runs(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    todo = [(row, seed) for seed in seeds for row in options.rows]
    for row in {row.startswith("best"): row for row in options.rows}.values():
        config = config_of(row, 0, options)
        make_env(config, make_run_policy(config)).close()  # data and reference, once
    runs: dict[str, list[dict[str, Any]]] = {row: [] for row in options.rows}
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        waiting = [(*what, pool.submit(result_of, *what, options)) for what in todo]
        for row, seed, future in waiting:
            runs[row].append(future.result())
            print(f"{row} seed {seed}: {100 * runs[row][-1]['test_accuracy']:.2f}", flush=True)
    return runs


def main() -> None:
    options = arguments()
    runs = all_runs(options)
    head = ["row", "n", "test %", *(f"- {other}" for other in AGAINST)]
    head += ["worst class %", "run / full", "ref / full", "s"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    table = "\n".join([*lines, *(line(row, runs) for row in options.rows)])
    print(table)
    write_text(options.out / "table.md", table + "\n")
    note = {row: [r["test_accuracy"] for r in group] for row, group in runs.items()}
    write_text(options.out / "accuracies.json", json.dumps(note, indent=1))
    named = [r | {"policy": row} for row, group in runs.items() for r in group]
    picture = options.out / "accuracy.png"
    plot_accuracy_against_compute(named, summarize(named, options.rows[0]), picture)
    print(f"plot: {picture}")


if __name__ == "__main__":
    main()
