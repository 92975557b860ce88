"""Options of the command line for many runs: processes, Ray, seeds, sweeps, experiments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = [
    "add_datasets_option",
    "add_experiment",
    "add_fanout_options",
    "add_ray_option",
    "add_sweep_options",
]


def add_datasets_option(parser: Any) -> None:
    """Add several data sets, each with a comparison of its own."""
    parser.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="compare on each of these, with an overview"
    )


def add_fanout_options(parser: Any) -> None:
    """Add where runs are done, and from which seed on."""
    parser.add_argument(
        "--first-seed", type=int, default=0, metavar="S", help="the first seed (default: 0)"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="K", help="processes (default: 1)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="T",
        help="threads of a run; results are the same bits for equal T (default: cores / K)",
    )
    add_ray_option(parser, "runs")


def add_ray_option(parser: Any, what: str) -> None:
    """Add the cluster that does something."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS|local",
        help=f"{what} as tasks of a Ray cluster: host:port, auto, or local for one of this machine",
    )


def add_sweep_options(parser: Any) -> None:
    """Add what is varied, and how."""
    group = parser.add_argument_group("sweep, by selection-validation accuracy, never test")
    group.add_argument(
        "--sweep",
        nargs="+",
        metavar="KEY=VALUES",
        help="vary options or policy parameters over a grid: keep=.3,.5 score_share=0,.5,1 "
        "schedule.midpoint=.3,.7; with --sweep-optuna also ranges: keep=.2..0.8, "
        "learning_rate=.01..1:log",
    )
    group.add_argument(
        "--sweep-optuna",
        type=int,
        metavar="N",
        help="N points chosen by Optuna instead of the grid (extra 'sweep')",
    )


def add_experiment(
    commands: Any, add_options: Callable[..., None], add_record_options: Callable[..., None]
) -> None:
    """Add the command ``experiment``."""
    parser = commands.add_parser(
        "experiment",
        help="run one of the paper's open checks",
        description="Run one of the paper's open checks: a table, a plot, and the command.",
        epilog="example: gstds experiment schedules --dataset fashion-mnist --limit 10000",
    )
    parser.add_argument(
        "name", metavar="NAME", help="sanity, schedules, reference, components or overhead"
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="NAME",
        help="data sets (default: cifar10 oxford-iiit-pet flowers102)",
    )
    parser.add_argument("--seeds", type=int, metavar="COUNT", help="number of seeds (default: 5)")
    add_fanout_options(parser)
    add_options(parser, skip=("policy", "seed", "dataset"))
    add_record_options(parser)
