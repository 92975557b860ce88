"""What an experiment leaves behind: one Markdown page with table, plot and command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.files import write_bytes, write_text
from gstds.train.figures.frame import as_png, draw_mean, new_figure
from gstds.train.figures.palette import policy_color
from gstds.train.figures.tables import Table, comparison_table, metric_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["saving_table", "write_experiment"]

Summary = Sequence[dict[str, Any]]


def write_experiment(folder: Path, note: Mapping[str, Any]) -> Path:
    """Write ``experiment.md`` and one plot per data set; return the page's path.

    Args:
        folder: The experiment's folder.
        note: As `gstds.train.comparing.experiments.run_experiment` returns it.

    Raises:
        OSError: If the folder cannot be written.
    """
    parts = [f"# Experiment `{note['name']}`", str(note["question"])]
    parts.append(f"```\n{note['command']}\n```")
    for content in note["comparisons"]:
        if content["summary"]:
            parts += _dataset_section(folder, content)
    page = folder / "experiment.md"
    write_text(page, "\n\n".join(parts) + "\n")
    return page


def _dataset_section(folder: Path, content: Mapping[str, Any]) -> list[str]:
    from gstds.train.running.options import dataset_folder

    dataset = str(content["dataset"])
    table = comparison_table(content["summary"], setting=content["setting"])
    saving = saving_table(content["summary"])
    plot = dataset_folder(folder, dataset) / "rows.png"
    write_bytes(plot, as_png(_plot_rows(content["summary"])))
    left = [f"Left out: `{row}`: {why}" for row, why in content.get("left_out", {}).items()]
    return [
        f"## {dataset}",
        table.markdown(),
        table.caption,
        *left,
        f"![Accuracy and cost of each row]({plot.relative_to(folder)})",
        "### Operations saved, seconds saved",
        saving.markdown(),
        saving.caption,
    ]


def saving_table(summary: Summary) -> Table:
    """Lay out how much of the compute that was saved became seconds saved.

    Args:
        summary: As `gstds.train.figures.statistics.summarize` returns it.
    """
    rows = [row | {"realized": _realized(row)} for row in summary if row["policy"] != "full"]
    return metric_table(
        "saving",
        rows,
        "Realized saving: share of seconds saved over share of operations saved. Seconds are "
        "those of loading, scoring, solving and training, without monitoring and reference.",
    )


def _realized(row: Mapping[str, Any]) -> float | None:
    compute, seconds = row.get("relative_compute"), row.get("relative_seconds")
    if compute is None or seconds is None or compute >= 0.999:
        return None
    return float((1 - seconds) / (1 - compute))


def _plot_rows(summary: Summary) -> Figure:
    """Draw each row's test accuracy with its interval, and its compute and seconds over full's."""
    figure, (left, right) = new_figure(10.5, 1.5 + 0.42 * len(summary), columns=2)
    for place, row in enumerate(summary):
        color = policy_color(str(row["policy"]))
        if row.get("mean") is not None:
            draw_mean(left, row, y=place, capsize=4)
        marks = (("relative_seconds", "D", 9, "white"), ("relative_compute", "o", 5, color))
        for key, marker, size, fill in marks:
            if row.get(key) is not None:
                right.plot(
                    [row[key]], [place], marker, ms=size, markeredgecolor=color,
                    markerfacecolor=fill,
                )  # fmt: skip
    left.set_yticks(range(len(summary)), [str(row["policy"]) for row in summary])
    right.set_yticks(range(len(summary)), [""] * len(summary))
    left.invert_yaxis()
    right.invert_yaxis()
    left.set_xlabel("test accuracy (%), mean and 95% interval")
    timed = any(row.get("relative_seconds") is not None for row in summary)
    also = " and seconds (diamonds)" if timed else ""
    right.set_xlabel(f"share of full training's compute (dots){also}")
    right.set_xlim(left=0)
    return figure
