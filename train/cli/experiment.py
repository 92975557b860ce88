"""The command ``experiment``: the paper's open checks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gstds.common.checks import check_choice
from gstds.train.cli.comparison_arguments import comparison_from, exit_code, ui_line, with_tracking
from gstds.train.comparing.comparison import Comparison, ExperimentOptions
from gstds.train.running.options import RunConfig
from gstds.train.terminal.arguments import (
    check_places,
    command_line,
    new_folder,
    touch_folder,
    user_folder_on_path,
)
from gstds.train.terminal.console import Console, out, print_table
from gstds.train.terminal.exit_codes import EXIT_DONE
from gstds.train.terminal.options import given

__all__ = ["do_experiment"]

Arguments = argparse.Namespace


def do_experiment(arguments: Arguments) -> int:
    """Run one of the paper's open checks."""
    from gstds.train.comparing.experiments import OVERHEAD, experiment_names

    user_folder_on_path()
    check_places(arguments)
    check_choice("NAME", arguments.name, experiment_names())
    return _overhead(arguments) if arguments.name == OVERHEAD else _comparisons(arguments)


def _overhead(arguments: Arguments) -> int:
    from gstds.train.comparing.experiments import OVERHEAD, experiment_names
    from gstds.train.comparing.overhead import measure_overhead, write_overhead

    for name in given(arguments, RunConfig):
        raise ValueError(f"experiment overhead trains nothing: {name} has no meaning there")
    folder = Path(arguments.out) if arguments.out else new_folder("experiment")
    touch_folder(folder)
    with Console(quiet=arguments.quiet) as console:
        rows = measure_overhead(progress=console)
    question = experiment_names()[OVERHEAD]
    page = write_overhead(folder, rows, question=question, command=command_line())
    out(page.read_text())
    out(f"page: {page}")
    return EXIT_DONE


def _comparisons(arguments: Arguments) -> int:
    from gstds.train.comparing.experiments import EXPERIMENTS, run_experiment
    from gstds.train.launching.ray_runs import ray_cluster
    from gstds.train.reporting.report import write_experiment
    from gstds.train.running.ending import StopFlag, interruptible
    from gstds.train.terminal.live_table import Board

    preset = EXPERIMENTS[arguments.name]
    asked = ExperimentOptions(**given(arguments, ExperimentOptions))
    datasets, arguments.dataset = asked.dataset, asked.dataset[0]
    rows = {"policies": tuple(preset.rows), "seeds": asked.seeds, "controls": False}
    comparison = comparison_from(arguments, "experiment", preset.options, **rows)
    comparison = with_tracking(arguments, comparison)
    stop = StopFlag()
    with ray_cluster(comparison.ray), Board(quiet=arguments.quiet) as board, interruptible(stop):
        note = run_experiment(
            arguments.name, comparison, datasets, progress=board, stop=stop, watch=board
        )
    page = write_experiment(comparison.folder, note)
    if comparison.tracking:
        _publish(arguments, note, comparison)
    return _show(arguments, note, page, comparison.tracking)


def _publish(arguments: Arguments, note: dict[str, Any], comparison: Comparison) -> None:
    from gstds.train.reporting.mlflow_summary import publish
    from gstds.train.running.options import dataset_folder
    from gstds.train.tracking.uploader import Upload

    upload = Upload(comparison.tracking, arguments.experiment)
    for content in note["comparisons"]:
        plot = dataset_folder(comparison.folder, content["dataset"]) / "rows.png"
        publish(upload, content, {"rows": plot})


def _show(arguments: Arguments, note: dict[str, Any], page: Path, uri: str | None) -> int:
    from gstds.common.files import write_json
    from gstds.train.figures.tables import comparison_table

    if arguments.json:
        write_json(arguments.json, note)
    for content in note["comparisons"]:
        out(f"{content['dataset']}:")
        if content["summary"]:
            print_table(comparison_table(content["summary"], setting=content["setting"]))
        for row, why in content["left_out"].items():
            out(f"left out: {row}: {why}")
    out(f"\npage: {page}")
    if uri:
        out(ui_line(arguments))
    return _exit_code(note)


def _exit_code(note: dict[str, Any]) -> int:
    runs = [run for content in note["comparisons"] for run in content["runs"]]
    planned = sum(content["planned"] for content in note["comparisons"])
    statuses = [run["status"] for run in runs]
    early = len(note["comparisons"]) < note["planned"] or len(runs) < planned
    return exit_code(statuses, whole=not early)
