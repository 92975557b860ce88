"""One comparison on each of several data sets, and an overview of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gstds.common.files import write_json, write_text
from gstds.train.comparing.compare import plan_run
from gstds.train.comparing.comparison import Comparison
from gstds.train.comparing.fan_out import prepare
from gstds.train.figures.tables import Table, judged_on, lay_out, points
from gstds.train.running.options import dataset_folder

__all__ = ["check_data", "on_dataset", "overview_table", "write_overview"]


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
