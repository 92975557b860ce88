"""The command ``compare --datasets``: one comparison for each data set, and an overview."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gstds.common.files import write_json, write_text
from gstds.train.comparing.compare import compare, plan_run
from gstds.train.comparing.comparison import Comparison
from gstds.train.comparing.fan_out import prepare
from gstds.train.figures.tables import Table, judged_on
from gstds.train.terminal.arguments import Arguments
from gstds.train.terminal.console import out, print_table
from gstds.train.terminal.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED

__all__ = ["check_data", "compare_datasets", "dataset_folder", "on_dataset", "overview_table"]


def dataset_folder(folder: Path, dataset: str) -> Path:
    """Return where a data set's comparison goes."""
    return folder / "".join(c if c.isalnum() or c in "-._" else "-" for c in dataset)


def on_dataset(comparison: Comparison, dataset: str) -> Comparison:
    """Return the comparison on one of several data sets, in a folder of its own."""
    return replace(
        comparison,
        base=comparison.base.with_options(dataset=dataset),
        name=f"{comparison.name}-{dataset}",
        folder=dataset_folder(comparison.folder, dataset),
    )


def compare_datasets(
    arguments: Arguments, comparison: Comparison, datasets: Sequence[str], show: Any
) -> int:
    """Compare on one data set after the other; write ``overview.json`` and ``overview.md``.

    Args:
        arguments: The command line.
        comparison: Policies, options, seeds and folder.
        datasets: Names of data sets.
        show: Writes and prints one comparison, and returns its exit code.

    Raises:
        ValueError: If a data set is named twice, or an option is unknown or out of range.
        OSError: If a file cannot be read or written.
    """
    from gstds.train.launching.ray_runs import ray_cluster
    from gstds.train.running.stopping import StopFlag, interruptible
    from gstds.train.terminal.board import Board

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
        codes.append(show(quiet, contents[dataset], one.folder, one.tracking))
    _write(arguments, comparison, contents)
    worst = (EXIT_INTERRUPTED, EXIT_FAILED)
    return next((code for code in worst if code in codes), EXIT_DONE)


def check_data(comparisons: Sequence[Comparison]) -> None:
    """Load every data set once, so that a wrong name is found before the first run.

    Raises:
        ValueError: If a data set is unknown or unusable.
        OSError: If a file cannot be read.
    """
    for one in comparisons:
        prepare([plan_run(one, "full", one.first_seed)], None)


def _check_once(datasets: Sequence[str], folders: Sequence[Path]) -> None:
    twice = {d for d, f in zip(datasets, folders, strict=True) if folders.count(f) > 1}
    if twice:
        raise ValueError(f"datasets must be named once each, got {sorted(twice)} more than once")


def _write(
    arguments: Arguments, comparison: Comparison, contents: Mapping[str, Mapping[str, Any]]
) -> None:
    rows = [{**row, "dataset": d} for d, content in contents.items() for row in content["summary"]]
    overview = {
        "version": 1,
        "name": comparison.name,
        "baseline": comparison.baseline,
        "command": comparison.command,
        "datasets": list(contents),
        "runs": [run for content in contents.values() for run in content["runs"]],
        "summary": rows,
    }
    write_json(comparison.folder / "overview.json", overview)
    table = overview_table(rows)
    parts = ["# Overview", f"```\n{comparison.command}\n```", table.markdown(), table.caption]
    write_text(comparison.folder / "overview.md", "\n\n".join(parts) + "\n")
    if arguments.json:
        write_json(arguments.json, overview)
    out("\noverview:\n")
    print_table(table)
    out(f"\n{table.caption}\noverview: {comparison.folder / 'overview.md'}")


def overview_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out test accuracies: policies down, data sets across.

    Args:
        rows: Rows of summaries, each with its ``dataset``.
    """
    datasets = list(dict.fromkeys(str(row["dataset"]) for row in rows))
    policies = list(dict.fromkeys(str(row["policy"]) for row in rows))
    cells = {(row["policy"], row["dataset"]): _cell(row) for row in rows}
    return Table(
        header=("policy", *datasets),
        rows=tuple((p, *(cells.get((p, d), "-") for d in datasets)) for p in policies),
        caption=f"Final {judged_on(rows)} accuracy in %, mean ± 95% t interval over seeds; each "
        "data set has a table, tests and a report of its own.",
    )


def _cell(row: Mapping[str, Any]) -> str:
    if row.get("mean") is None:
        return "-"
    half = "" if row.get("ci95") is None else f" ± {100 * row['ci95']:.1f}"
    return f"{100 * row['mean']:.1f}{half}"
