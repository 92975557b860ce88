"""The command ``compare``: several policies and seeds, or a sweep over their parameters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.files import write_json
from gstds.train.cli.comparison_arguments import comparison_from, ui_line, with_tracking
from gstds.train.cli.report import print_tables
from gstds.train.cli.sweep import do_sweep
from gstds.train.terminal.arguments import (
    check_places,
    user_folder_on_path,
)
from gstds.train.terminal.console import out
from gstds.train.terminal.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED

if TYPE_CHECKING:
    pass

__all__ = ["do_compare"]

Arguments = argparse.Namespace
_POLICIES = ["gstds", "random", "full"]


def do_compare(arguments: Arguments) -> int:
    """Train under several policies and seeds, and compare."""
    user_folder_on_path()
    check_places(arguments)
    if arguments.datasets and (arguments.sweep or hasattr(arguments, "dataset")):
        raise ValueError("--datasets goes without --dataset and without --sweep")
    if arguments.sweep or arguments.sweep_optuna:
        return do_sweep(arguments)
    from gstds.train.comparing.compare import compare, plan
    from gstds.train.launching.ray_runs import ray_cluster
    from gstds.train.running.stopping import StopFlag, interruptible
    from gstds.train.terminal.board import Board

    comparison = comparison_from(arguments, tuple(arguments.policies or _POLICIES), "compare")
    plan(comparison)
    comparison = with_tracking(arguments, comparison)
    if arguments.datasets:
        from gstds.train.comparing.datasets import compare_datasets

        return compare_datasets(arguments, comparison, arguments.datasets, show_comparison)
    stop = StopFlag()
    with ray_cluster(comparison.ray), Board(quiet=arguments.quiet) as board, interruptible(stop):
        content = compare(comparison, progress=board, stop=stop, watch=board)
    return show_comparison(arguments, content, comparison.folder, comparison.tracking)


def show_comparison(
    arguments: Arguments, content: dict[str, Any], folder: Path, uri: str | None
) -> int:
    """Write a comparison's report, print it and put it into MLflow; return the exit code."""
    from gstds.train.reporting.report import write_report

    if arguments.json:
        write_json(arguments.json, content)
    paths = write_report(folder, content)
    print_tables(content)
    out(f"\nreport: {paths['html']}")
    if "accuracy" in paths:
        out(f"plot (accuracy): {paths['accuracy']}")
    if uri:
        from gstds.train.reporting.mlflow_summary import publish

        publish(uri, arguments.experiment, content, paths)
        if any(folder.glob("runs/*/spool/*.jsonl")):
            out(f"not all of the record is in MLflow yet; deliver it by: gstds sync {folder}")
        out(ui_line(arguments))
    statuses = [run["status"] for run in (*content["runs"], *content["controls"])]
    if "interrupted" in statuses or not _all_there(content):
        out("stopped early; the same command with the same --out goes on")
        return EXIT_INTERRUPTED
    return EXIT_DONE if all(s == "finished" for s in statuses) else EXIT_FAILED


def _all_there(content: dict[str, Any]) -> bool:
    planned = content["controls_planned"]
    whole = len(content["runs"]) == content["planned"]
    return whole and planned is not None and len(content["controls"]) == planned
