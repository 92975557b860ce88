"""The commands ``compare`` and ``report``: several policies and seeds, and what they show."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_sealed
from gstds.common.files import write_json
from gstds.train.cli.comparison_arguments import comparison_from, exit_code, ui_line, with_tracking
from gstds.train.cli.sweep import do_sweep
from gstds.train.comparing.comparison import CompareOptions, Comparison
from gstds.train.terminal.arguments import check_places, user_folder_on_path
from gstds.train.terminal.console import out, print_table
from gstds.train.terminal.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from gstds.train.terminal.options import given

__all__ = ["do_compare", "do_report"]

Arguments = argparse.Namespace


def do_compare(arguments: Arguments) -> int:
    """Train under several policies and seeds, and compare."""
    user_folder_on_path()
    check_places(arguments)
    asked = CompareOptions(**given(arguments, CompareOptions))
    if asked.datasets and (asked.sweep or hasattr(arguments, "dataset")):
        raise ValueError("--datasets goes without --dataset and without --sweep")
    if asked.sweep or asked.sweep_optuna:
        return do_sweep(arguments)
    from gstds.train.comparing.compare import compare, plan
    from gstds.train.launching.ray_runs import ray_cluster
    from gstds.train.running.ending import StopFlag, interruptible
    from gstds.train.terminal.live_table import Board

    comparison = comparison_from(arguments, "compare")
    plan(comparison)
    comparison = with_tracking(arguments, comparison)
    if asked.datasets:
        return _compare_datasets(arguments, comparison, asked.datasets)
    stop = StopFlag()
    with ray_cluster(comparison.ray), Board(quiet=arguments.quiet) as board, interruptible(stop):
        content = compare(comparison, progress=board, stop=stop, watch=board)
    return _show_comparison(arguments, content, comparison.folder, comparison.tracking)


def _compare_datasets(arguments: Arguments, comparison: Comparison, datasets: Sequence[str]) -> int:
    """Compare on one data set after the other; write ``overview.json`` and ``overview.md``.

    Args:
        arguments: The command line.
        comparison: Policies, options, seeds and folder.
        datasets: Names of data sets.

    Raises:
        ValueError: If a data set is named twice, or an option is unknown or out of range.
        OSError: If a file cannot be read or written.
    """
    from gstds.train.comparing.compare import compare
    from gstds.train.comparing.experiments import check_data, on_dataset, write_overview
    from gstds.train.launching.ray_runs import ray_cluster
    from gstds.train.running.ending import StopFlag, interruptible
    from gstds.train.terminal.live_table import Board

    every = [on_dataset(comparison, dataset) for dataset in datasets]
    _check_once(datasets, [one.folder for one in every])
    check_data(every)
    stop = StopFlag()
    contents, codes = {}, []
    for dataset, one in zip(datasets, every, strict=True):
        if stop.is_set:
            codes.append(EXIT_INTERRUPTED)
            break
        with ray_cluster(one.ray), Board(quiet=arguments.quiet) as board, interruptible(stop):
            contents[dataset] = compare(one, progress=board, stop=stop, watch=board)
        out(f"\n{dataset}:\n")
        quiet = argparse.Namespace(**{**vars(arguments), "json": None})
        codes.append(_show_comparison(quiet, contents[dataset], one.folder, one.tracking))
    overview, table = write_overview(comparison, contents)
    if arguments.json:
        write_json(arguments.json, overview)
    out("\noverview:\n")
    print_table(table)
    out(f"\n{table.caption}\noverview: {comparison.folder / 'overview.md'}")
    worst = (EXIT_INTERRUPTED, EXIT_FAILED)
    return next((code for code in worst if code in codes), EXIT_DONE)


def _check_once(datasets: Sequence[str], folders: Sequence[Path]) -> None:
    twice = {d for d, f in zip(datasets, folders, strict=True) if folders.count(f) > 1}
    if twice:
        raise ValueError(f"datasets must be named once each, got {sorted(twice)} more than once")


def _show_comparison(
    arguments: Arguments, content: dict[str, Any], folder: Path, uri: str | None
) -> int:
    """Write a comparison's report, print it and put it into MLflow; return the exit code."""
    from gstds.train.reporting.report import write_report

    if arguments.json:
        write_json(arguments.json, content)
    paths = write_report(folder, content)
    _print_tables(content)
    out(f"\nreport: {paths['html']}")
    if "accuracy" in paths:
        out(f"plot (accuracy): {paths['accuracy']}")
    if uri:
        from gstds.train.reporting.mlflow_summary import publish
        from gstds.train.tracking.uploader import Upload

        publish(Upload(uri, arguments.experiment), content, paths)
        out(ui_line(arguments))
    statuses = [run["status"] for run in (*content["runs"], *content["controls"])]
    return exit_code(statuses, whole=_all_there(content))


def _all_there(content: dict[str, Any]) -> bool:
    planned = content["controls_planned"]
    whole = len(content["runs"]) == content["planned"]
    return whole and planned is not None and len(content["controls"]) == planned


def do_report(arguments: argparse.Namespace) -> int:
    """Write the report of a comparison, by its folder or by its name in the tracking store."""
    from gstds.train.reporting.report import write_report

    here = str(Path.cwd())
    if here not in sys.path:  # the data set may be a user's module:function
        sys.path.append(here)
    folder = _find_comparison(arguments)
    try:
        content = read_sealed(folder / "comparison.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(folder)!r} holds no readable comparison.json: {error}") from error
    try:
        # A file is no one's word for running code: only the command line is.
        named = arguments.dataset == content["config"]["dataset"]
        paths = write_report(folder, content, run_code=named)
        _print_tables(content)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(folder)!r}: comparison.json is not one that this release reads "
            f"({type(error).__name__}: {error})"
        ) from error
    out(f"\nreport: {paths['html']}")
    return EXIT_DONE


def _find_comparison(arguments: argparse.Namespace) -> Path:
    folder = Path(arguments.comparison)
    if folder.exists():
        return folder
    from gstds.train.reporting.mlflow_summary import fetch_comparison
    from gstds.train.tracking.store import tracking_uri

    uri = tracking_uri(arguments.tracking_uri)
    place = Path("runs") / f"report-{folder.name}"
    return fetch_comparison(uri, arguments.experiment, arguments.comparison, place)


def _print_tables(content: dict[str, Any]) -> None:
    """Print the comparison, and below it the controls."""
    from gstds.train.figures.tables import comparison_table

    if content["summary"]:
        print_table(comparison_table(content["summary"], setting=content["setting"]))
    if content.get("controls_summary"):
        out("\ncontrols, beside the same baseline:\n")
        print_table(replace(comparison_table(content["controls_summary"]), caption=""))
