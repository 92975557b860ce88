"""One comparison on each of several data sets; and the paper's open checks, which are such.

GSTDS (arXiv 2507.04269) leaves open what each of its parts contributes. A preset is a comparison
whose rows are variants (`gstds.train.comparing.variants`), run on one data set after the other.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gstds.common.checks import check_choice
from gstds.common.files import write_json, write_text
from gstds.train.comparing.compare import compare, plan, plan_run
from gstds.train.comparing.comparison import Comparison
from gstds.train.comparing.fan_out import Report, prepare
from gstds.train.figures.tables import Table, judged_on, lay_out, points
from gstds.train.launching.jobs import Progress, Watch
from gstds.train.running.ending import StopFlag
from gstds.train.running.options import dataset_folder

__all__ = ["EXPERIMENTS", "OVERHEAD", "Preset", "check_data", "experiment_names", "on_dataset"]
__all__ += ["overview_table", "run_experiment", "write_overview"]

OVERHEAD = "overhead"


@dataclass(frozen=True)
class Preset:
    """A question and the rows that answer it.

    Attributes:
        question: What is asked.
        rows: Policies and variants.
        baseline: The row that the others are tested against.
        options: Options that differ from the defaults; the command line wins.
        optional: Rows that are left out, with a note, where what they need cannot be had.
    """

    question: str
    rows: Sequence[str]
    baseline: str
    options: dict[str, Any] = field(default_factory=dict)
    optional: Sequence[str] = ()


def _presets() -> dict[str, Preset]:
    text = Path(__file__).with_name("presets.toml").read_text(encoding="utf-8")
    return {name: Preset(**row) for name, row in tomllib.loads(text).items()}


EXPERIMENTS = _presets()
"""Presets by name. ``overhead`` trains nothing and stands in `gstds.train.comparing.overhead`."""


def experiment_names() -> dict[str, str]:
    """Return every experiment with its question."""
    overhead = {OVERHEAD: "How does the spectral solve grow with the batch and the features?"}
    return {name: preset.question for name, preset in EXPERIMENTS.items()} | overhead


def run_experiment(
    name: str,
    comparison: Comparison,
    datasets: Sequence[str],
    *,
    progress: Progress | None = None,
    report: Report | None = None,
    stop: StopFlag | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Run a preset on data sets, one comparison in a folder of its own for each.

    Args:
        name: One of `EXPERIMENTS`.
        comparison: Options, seeds and folder; its policies and baseline are the preset's.
        datasets: Names of data sets.
        progress: Called with a phase, what is done, and the total.
        report: Called with each result and whether it was there before.
        stop: Looked at between steps.
        watch: Is told how the runs go on.

    Returns:
        ``name``, ``question``, ``command`` and, in ``comparisons``, the content of each data set's
        JSON file with ``left_out``: rows that could not be run, and why.

    Raises:
        ValueError: If an option is unknown or out of range.
        OSError: If a file cannot be read or written.
    """
    preset = EXPERIMENTS[check_choice("NAME", name, EXPERIMENTS)]
    stop = stop or StopFlag()
    contents = []
    # A preset's rows are its controls: random and full are among them.
    rows = tuple(preset.rows)
    ours = replace(comparison, policies=rows, baseline=preset.baseline, controls=False)
    every = [on_dataset(ours, dataset) for dataset in datasets]
    check_data(every)
    for dataset, planned in zip(datasets, every, strict=True):
        if stop.is_set:
            break
        one, left_out = _without_missing(planned, preset, progress)
        content = compare(one, progress=progress, report=report, stop=stop, watch=watch)
        contents.append({**content, "dataset": dataset, "left_out": left_out})
    note = {
        "version": 1,
        "name": name,
        "question": preset.question,
        "command": comparison.command,
        "planned": len(datasets),
        "comparisons": contents,
    }
    write_json(comparison.folder / "experiment.json", note)
    return note


def _without_missing(
    comparison: Comparison, preset: Preset, progress: Progress | None
) -> tuple[Comparison, dict[str, str]]:
    """Leave out optional rows that cannot be prepared; return the rest and the reasons."""
    left_out = {}
    for row in preset.optional:
        alone = replace(comparison, policies=(row,), baseline=row, seeds=1)
        try:
            prepare(plan(alone), progress)
        except (ValueError, OSError, ImportError) as error:
            left_out[row] = " ".join(str(error).split())
    rows = tuple(row for row in comparison.policies if row not in left_out)
    return replace(comparison, policies=rows), left_out


def on_dataset(comparison: Comparison, dataset: str) -> Comparison:
    """Return the comparison on one of several data sets, in a folder of its own."""
    return replace(
        comparison,
        base=comparison.base.with_options(dataset=dataset),
        name=f"{comparison.name}-{dataset}",
        folder=dataset_folder(comparison.folder, dataset),
    )


def write_overview(
    comparison: Comparison, contents: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], Table]:
    """Write ``overview.json`` and ``overview.md``; return what they hold.

    Args:
        comparison: Policies, options, seeds and folder.
        contents: The content of each data set's comparison.

    Raises:
        OSError: If a file cannot be written.
    """
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
    return overview, table


def check_data(comparisons: Sequence[Comparison]) -> None:
    """Load every data set once, so that a wrong name is found before the first run.

    Raises:
        ValueError: If a data set is unknown or unusable.
        OSError: If a file cannot be read.
    """
    for one in comparisons:
        prepare([plan_run(one, "full", one.first_seed)], None)


def overview_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out test accuracies: policies down, data sets across.

    Args:
        rows: Rows of summaries, each with its ``dataset``.
    """
    datasets = dict.fromkeys(str(row["dataset"]) for row in rows)
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault(row["policy"], {"policy": row["policy"]})
        line[f"on {row['dataset']}"] = points(row, "mean", ".1f", "ci95")
    columns = [("policy", "policy", "text"), *((f"on {d}", d, "text") for d in datasets)]
    return lay_out(
        list(lines.values()),
        columns,
        f"Final {judged_on(rows)} accuracy in %, mean ± 95% t interval over seeds; each data set "
        "has a table, tests and a report of its own.",
    )
