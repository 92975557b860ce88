"""The command ``compare``: several policies and seeds, or a sweep over their parameters."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.files import write_json
from train.arguments import (
    check_places,
    command_line,
    given_options,
    new_folder,
    open_tracking,
    touch_folder,
    user_folder_on_path,
)
from train.cli import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from train.config import config_from
from train.console import out
from train.mlflow_store import mask_secrets
from train.report_command import print_tables

if TYPE_CHECKING:
    from train.compare import Comparison

__all__ = ["comparison_from", "do_compare", "ui_line", "with_tracking"]

Arguments = argparse.Namespace
_POLICIES = ["gstds", "random", "full"]


def do_compare(arguments: Arguments) -> int:
    """Train under several policies and seeds, and compare."""
    user_folder_on_path()
    check_places(arguments)
    if arguments.datasets and (arguments.sweep or hasattr(arguments, "dataset")):
        raise ValueError("--datasets goes without --dataset and without --sweep")
    if arguments.sweep or arguments.sweep_optuna:
        from train.sweep_command import do_sweep

        return do_sweep(arguments)
    from train.board import Board
    from train.compare import compare, plan
    from train.ray_runs import ray_cluster
    from train.stopping import StopFlag, interruptible

    comparison = comparison_from(arguments, tuple(arguments.policies or _POLICIES), "compare")
    plan(comparison)
    comparison = with_tracking(arguments, comparison)
    if arguments.datasets:
        from train.datasets_command import compare_datasets

        return compare_datasets(arguments, comparison, arguments.datasets, show_comparison)
    stop = StopFlag()
    with ray_cluster(comparison.ray), Board(quiet=arguments.quiet) as board, interruptible(stop):
        content = compare(comparison, progress=board, stop=stop, watch=board)
    return show_comparison(arguments, content, comparison.folder, comparison.tracking)


def comparison_from(
    arguments: Arguments,
    policies: tuple[str, ...],
    kind: str,
    defaults: Mapping[str, Any] | None = None,
) -> Comparison:
    """Return the comparison that a command line asks for, not tracked yet.

    Args:
        arguments: The command line.
        policies: The rows.
        kind: What a new folder is called.
        defaults: Options where the command line has none.

    Raises:
        ValueError: If an option is unknown or out of range.
        OSError: If the folder cannot be written.
    """
    from train.compare import Comparison

    folder = Path(arguments.out) if arguments.out else new_folder(kind)
    touch_folder(folder)
    baseline = getattr(arguments, "baseline", None)
    return Comparison(
        base=config_from({**(defaults or {}), **given_options(arguments)}),
        policies=policies,
        seeds=3 if arguments.seeds is None else arguments.seeds,
        baseline=baseline or ("random" if "random" in policies else policies[0]),
        name=folder.name,
        folder=folder,
        tracking=None,
        experiment=arguments.experiment,
        workers=arguments.workers,
        threads=arguments.threads,
        checkpoint_every=arguments.checkpoint_every,
        command=command_line(),
        paper_defaults=getattr(arguments, "paper_defaults", False),
        controls=getattr(arguments, "controls", False),
        first_seed=arguments.first_seed,
        ray=arguments.ray,
        offline=arguments.offline,
    )


def with_tracking(arguments: Arguments, comparison: Comparison) -> Comparison:
    """Return the comparison with its tracking store, which answers; unless none is wanted.

    Raises:
        ConnectionError: If the store does not answer.
    """
    return replace(comparison, tracking=open_tracking(arguments))


def show_comparison(
    arguments: Arguments, content: dict[str, Any], folder: Path, uri: str | None
) -> int:
    """Write a comparison's report, print it and put it into MLflow; return the exit code."""
    from train.report import write_report

    if arguments.json:
        write_json(arguments.json, content)
    paths = write_report(folder, content)
    print_tables(content)
    out(f"\nreport: {paths['html']}")
    if "accuracy" in paths:
        out(f"plot (accuracy): {paths['accuracy']}")
    if uri:
        from train.publish import publish

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


def ui_line(arguments: Arguments) -> str:
    """Say how to open the runs."""
    extra = f" --experiment {arguments.experiment}" if arguments.experiment != "gstds" else ""
    extra += (
        f" --tracking-uri {mask_secrets(arguments.tracking_uri)}" if arguments.tracking_uri else ""
    )
    return f"open the runs: gstds ui{extra}"
