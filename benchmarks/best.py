"""Compare `best` at a share of the compute with full training at all of it, seed by seed.

    python benchmarks/best.py --out DIR --dataset digits [--seeds 10] [--budget .25] [--epochs 10]
        [--limit N] [--label-noise P] [--rows full best random-25]

Rows: `full` trains on everything for all its epochs; all others stop at the budget: `best`,
`short-full` (everything, fewer epochs), `random-25` (a constant quarter of each batch, at random)
and `random-06` (as many as `best` keeps, at random). Runs that DIR holds already are not repeated,
so that more seeds can be added later. Differences are paired by seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.config import RunConfig
from train.run import execute, finished_result
from train.statistics import confidence_half_width, paired_t, sign_flip_p

ROWS: dict[str, dict[str, Any]] = {
    "full": {"policy": "full", "setting": "equal-epochs"},
    "best": {"policy": "best"},
    "random-06": {"policy": "random", "schedule": "constant", "keep": 0.0625},
    "random-25": {"policy": "random", "schedule": "constant", "keep": 0.25},
    "short-full": {"policy": "full"},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--label-noise", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--budget", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    return parser.parse_args()


def result_of(row: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    config = RunConfig(
        **{"setting": "equal-budget", "budget": options.budget, **ROWS[row]},
        dataset=options.dataset,
        limit=options.limit,
        label_noise=options.label_noise,
        epochs=options.epochs,
        evaluations=1,
        seed=seed,
    )
    folder = options.out / f"{row}-{seed}"
    return finished_result(folder) or execute(config, folder, checkpoint_every=0)


def line(row: str, runs: dict[str, list[dict[str, Any]]]) -> str:
    accuracy = {name: 100 * np.array([r["test_accuracy"] for r in runs[name]]) for name in runs}
    mine = runs[row]
    cells = [row, str(len(mine)), f"{accuracy[row].mean():.2f} ± {_half(accuracy[row])}"]
    for other in ("full", "random-25", "random-06"):
        if other not in runs or other == row:
            cells.append("-")
            continue
        n = min(len(accuracy[row]), len(accuracy[other]))
        gap = list(accuracy[row][:n] - accuracy[other][:n])
        p, flip = paired_t(gap), sign_flip_p(gap)
        cells.append(f"{np.mean(gap):+.2f} ± {_half(gap)} (p {_p(p)}, flip {_p(flip)})")
    flops = np.mean([r["charged_flops"] / r["full_flops"] for r in mine])
    reference = np.mean([r["reference_flops"] / r["full_flops"] for r in mine])
    seconds = np.mean([r["seconds"] for r in mine])
    cells += [f"{flops:.3f}", f"{reference:.2f}", f"{seconds:.1f}"]
    return "| " + " | ".join(cells) + " |"


def _half(values: Any) -> str:
    half = confidence_half_width(list(values))
    return "?" if half is None else f"{half:.2f}"


def _p(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {row: [] for row in options.rows}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for row in options.rows:
            runs[row].append(result_of(row, seed, options))
            print(f"{row} seed {seed}: {100 * runs[row][-1]['test_accuracy']:.2f}", flush=True)
    print("| row | n | test % | - full | - random-25 | - random-06 | run / full | ref / full | s |")
    print("| --- " * 9 + "|")
    print("\n".join(line(row, runs) for row in options.rows))
    options.out.mkdir(parents=True, exist_ok=True)
    note = {row: [r["test_accuracy"] for r in group] for row, group in runs.items()}
    (options.out / "accuracies.json").write_text(json.dumps(note, indent=1))


if __name__ == "__main__":
    main()
