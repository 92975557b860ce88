"""The command ``compare --sweep``: rank points, and say how to judge the best one."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from gstds.common.files import write_json, write_text
from gstds.options.fields import names
from gstds.train.cli.comparison_arguments import comparison_from, exit_code, ui_line, with_tracking
from gstds.train.comparing.comparison import Comparison, SweepOptions
from gstds.train.comparing.variants import split_name
from gstds.train.figures.tables import Table, metric_table
from gstds.train.running.options import LogOptions
from gstds.train.terminal.console import out, print_table
from gstds.train.terminal.exit_codes import EXIT_INTERRUPTED
from gstds.train.terminal.options import given, option_words

__all__ = ["do_sweep", "judging_command", "ranking_table"]

Arguments = argparse.Namespace
_FRESH_SEEDS = 5


def do_sweep(arguments: Arguments) -> int:
    """Run a sweep, rank its points, write ``sweep.json`` and ``sweep.md``."""
    from gstds.train.comparing.sweep import Sweep, parse_axes
    from gstds.train.launching.ray_runs import ray_cluster
    from gstds.train.running.ending import StopFlag, interruptible
    from gstds.train.terminal.live_table import Board

    asked = SweepOptions(**given(arguments, SweepOptions))
    number = asked.sweep_optuna
    if not asked.sweep:
        raise ValueError("--sweep-optuna needs --sweep KEY=LOW..HIGH ...: what is searched")
    axes = parse_axes(asked.sweep)
    comparison = comparison_from(arguments, "sweep", policies=("gstds",))
    _check_keys(comparison, [axis.key for axis in axes])
    comparison = with_tracking(arguments, comparison)
    stop = StopFlag()
    with ray_cluster(comparison.ray), Board(quiet=arguments.quiet) as board, interruptible(stop):
        sweep = Sweep(comparison, board, stop, board)
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
    code = exit_code(statuses, whole=len(runs) >= planned, done=("diverged",))
    if code != EXIT_INTERRUPTED:
        out(f"judge the best on fresh seeds and the test part:\n  {best}")
    return code


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
    fresh = comparison.with_options(
        policies=tuple(rows),
        baseline="random",
        seeds=seeds,
        first_seed=comparison.first_seed + comparison.seeds,
        controls=True,
    )
    rows_words = option_words(fresh, skip=names(LogOptions))
    options = option_words(comparison.base, skip=("policy", "seed", "test"))
    return shlex.join(["gstds", "compare", *rows_words, *options])
