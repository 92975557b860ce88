"""The paper's open checks as presets: which rows answer which question, on which data.

GSTDS (arXiv 2507.04269) leaves open what each of its parts contributes. A preset is a comparison
whose rows are variants (`gstds.train.comparing.variants`), run on one data set after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gstds.common.checks import check_choice
from gstds.common.files import write_json
from gstds.train.comparing.compare import compare, plan
from gstds.train.comparing.comparison import Comparison
from gstds.train.comparing.datasets import check_data, on_dataset
from gstds.train.comparing.fan_out import Report, prepare
from gstds.train.launching.jobs import Progress, Watch
from gstds.train.running.ending import StopFlag

__all__ = ["EXPERIMENTS", "OVERHEAD", "Preset", "experiment_names"]
__all__ += ["run_experiment"]

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
    rows: tuple[str, ...]
    baseline: str
    options: dict[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()


EXPERIMENTS: dict[str, Preset] = {
    "sanity": Preset(
        "In a few epochs, does GSTDS reach what ordinary training reaches, and do the operations "
        "that it saves become seconds saved?",
        rows=("full", "gstds", "random"),
        baseline="full",
        options={"epochs": 5},
    ),
    "schedules": Preset(
        "Does the sigmoid schedule matter, at one mean keep ratio (.53)?",
        rows=(
            "gstds",
            "gstds@schedule=linear",
            "gstds@schedule=constant",
            "gstds@schedule=reversed",
            "random",
            "random@schedule=linear",
            "random@schedule=constant",
            "full",
        ),
        baseline="gstds",
    ),
    "reference": Preset(
        "How good must the reference be: a lighter one, an untrained one, one of another domain?",
        rows=(
            "gstds",
            "gstds@reference=resnet50",
            "gstds@reference=untrained",
            "gstds@reference=gstds.envs.task.foreign_reference:digits_network",
            "random",
            "full",
        ),
        baseline="gstds",
        optional=("gstds@reference=resnet50",),
    ),
    "components": Preset(
        "Which part does the work: the score, the schedule, or the half drawn by loss?",
        rows=(
            "gstds",
            "gstds@score_share=1",
            "gstds@score_share=0",
            "gstds@loss_weighting=uniform",
            "gstds@schedule=constant",
            "gstds@score_share=1,schedule=constant",
            "gstds@score_share=0,schedule=constant",
            "random",
            "random@schedule=constant",
            "full",
        ),
        baseline="gstds",
    ),
}
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
    every = [_on_dataset(comparison, preset, dataset) for dataset in datasets]
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


def _on_dataset(comparison: Comparison, preset: Preset, dataset: str) -> Comparison:
    # A preset's rows are its controls: random and full are among them.
    rows = replace(comparison, policies=preset.rows, baseline=preset.baseline, controls=False)
    return on_dataset(rows, dataset)


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
