"""The command ``compare --sweep``: rank points, and say how to judge the best one."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from gstds.common.checks import check_integer
from gstds.common.files import write_json, write_text
from gstds.train.cli.comparison_arguments import comparison_from, ui_line, with_tracking
from gstds.train.comparing.comparison import Comparison
from gstds.train.comparing.variants import split_name
from gstds.train.figures.tables import Table, metric_table
from gstds.train.running.options import RunConfig
from gstds.train.terminal.console import out, print_table
from gstds.train.terminal.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED

__all__ = ["do_sweep", "judging_command", "ranking_table"]

Arguments = argparse.Namespace
_FRESH_SEEDS = 5


def do_sweep(arguments: Arguments) -> int:
    """Run a sweep, rank its points, write ``sweep.json`` and ``sweep.md``."""
    from gstds.train.comparing.sweep import Sweep, parse_axes
    from gstds.train.launching.ray_runs import ray_cluster
    from gstds.train.running.ending import StopFlag, interruptible
    from gstds.train.terminal.live_table import Board

    if not arguments.sweep:
        raise ValueError("--sweep-optuna needs --sweep KEY=LOW..HIGH ...: what is searched")
    axes = parse_axes(arguments.sweep)
    policies = tuple(arguments.policies or ["gstds"])
    comparison = comparison_from(arguments, policies, "sweep")
    check_integer("seeds", comparison.seeds, low=1)
    check_integer("workers", comparison.workers, low=1)
    _check_keys(comparison, [axis.key for axis in axes])
    comparison = with_tracking(arguments, comparison)
    stop = StopFlag()
    with ray_cluster(comparison.ray), Board(quiet=arguments.quiet) as board, interruptible(stop):
        sweep, number = Sweep(comparison, board, stop, board), arguments.sweep_optuna
        runs, planned = sweep.grid(axes) if number is None else sweep.search(axes, number)
    return _show(arguments, comparison, runs, planned)


def _check_keys(comparison: Comparison, keys: Sequence[str]) -> None:
    """Refuse a key that no policy knows, before a range is searched for hours.

    Raises:
        ValueError: If there is one.
    """
    from gstds.train.comparing.sweep import swept_keys
    from gstds.train.comparing.variants import options_of

    for policy, taken in swept_keys(comparison.policies, keys).items():
        options_of(comparison.base, split_name(policy)[0], dict.fromkeys(taken))


def _show(
    arguments: Arguments, comparison: Comparison, runs: list[dict[str, Any]], planned: int
) -> int:
    from gstds.train.comparing.sweep import rank

    ranking = rank(runs)
    best = judging_command(comparison, ranking[0]["policy"]) if ranking else ""
    content = {
        "version": 1,
        "name": comparison.name,
        "command": comparison.command,
        "config": comparison.base.as_dict(),
        "planned": planned,
        "runs": runs,
        "ranking": ranking,
        "judge_the_best": best,
    }
    write_json(comparison.folder / "sweep.json", content)
    table = ranking_table(ranking)
    write_text(comparison.folder / "sweep.md", _page(content, table))
    if arguments.json:
        write_json(arguments.json, content)
    print_table(table)
    out(f"\n{table.caption}\nresult: {comparison.folder / 'sweep.json'}")
    if comparison.tracking:
        out(ui_line(arguments))
    return _exit_code(runs, planned, best)


def _exit_code(runs: Sequence[Mapping[str, Any]], planned: int, best: str) -> int:
    statuses = [run["status"] for run in runs]
    if "interrupted" in statuses or len(runs) < planned:
        out("stopped early; the same command with the same --out goes on")
        return EXIT_INTERRUPTED
    out(f"judge the best on fresh seeds and the test part:\n  {best}")
    return EXIT_DONE if all(s in ("finished", "diverged") for s in statuses) else EXIT_FAILED


def _page(content: Mapping[str, Any], table: Table) -> str:
    parts = ["# Sweep", f"```\n{content['command']}\n```", table.markdown(), table.caption]
    parts += ["Judge the best on fresh seeds:", f"```\n{content['judge_the_best']}\n```"]
    return "\n\n".join(parts) + "\n"


def ranking_table(ranking: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out a ranking, as `gstds.train.comparing.sweep.rank` returns it."""
    return metric_table(
        "ranking",
        ranking,
        "Ranked by accuracy on selection-validation, final, mean ± 95% t interval over seeds. "
        "The best of many looks better than it is; the test part was not evaluated.",
    )


def judging_command(comparison: Comparison, row: str) -> str:
    """Return the command that runs a point against its policy, random and full on fresh seeds.

    Args:
        comparison: The sweep's.
        row: The point's name.
    """
    rows = dict.fromkeys([row, split_name(row)[0], "random", "full"])
    seeds = max(_FRESH_SEEDS, comparison.seeds)
    words = ["gstds", "compare", "--policies", *rows, "--baseline", "random"]
    words += ["--seeds", str(seeds), "--first-seed", str(comparison.first_seed + comparison.seeds)]
    workers = comparison.workers if comparison.workers > 1 else None
    for name, value in (("workers", workers), ("threads", comparison.threads)):
        words += [f"--{name}", str(value)] if value else []
    words += ["--ray", comparison.ray] if comparison.ray else []
    words += ["--paper-defaults"] if comparison.paper_defaults else []
    return shlex.join([*words, *_option_words(comparison.base)])


def _option_words(config: RunConfig) -> list[str]:
    """Return the options that differ from the defaults, as on the command line."""
    words: list[str] = []
    for option in fields(RunConfig):
        value = getattr(config, option.name)
        default = {} if option.default is MISSING else option.default
        if value == default or option.name in ("policy", "seed", "test"):
            continue
        flag = "--" + option.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, Mapping):
            words += [flag, *(f"{key}={item}" for key, item in value.items())]
        else:
            words += [flag, str(value)]
    return words
