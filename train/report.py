"""The report of a comparison: one table, three plots, and everything needed to repeat it."""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gstds.files import write_text
from train.mlflow_store import mask_secrets
from train.plots import plot_accuracy_against_compute, plot_keep_ratio, plot_run, plot_seconds
from train.statistics import summarize
from train.tables import Table, comparison_table, format_flops, format_seconds

__all__ = [
    "comparison_table",
    "plot_accuracy_against_compute",
    "plot_keep_ratio",
    "plot_run",
    "plot_seconds",
    "runs_table",
    "write_report",
]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; }
div.wide { overflow-x: auto; }
p.caption { color: #555; font-size: 13px; }
img { max-width: 100%; }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; }
"""


def write_report(folder: str | Path, comparison: Mapping[str, Any]) -> dict[str, Path]:
    """Write ``report.md``, ``report.html`` and the plots of a comparison, each atomically.

    Args:
        folder: Where to write; made if missing.
        comparison: ``command`` (text or words), ``setting``, ``versions``, ``hardware``, ``runs``
            and ``summary``; optionally ``controls`` (runs), ``controls_summary`` and ``baseline``.

    Returns:
        The paths by name: ``md``, ``html`` and the plots.

    Raises:
        OSError: If the folder cannot be written.
    """
    place = Path(folder)
    runs, controls = list(comparison["runs"]), list(comparison.get("controls") or ())
    shown = [*comparison["summary"], *_controls_summary(comparison)]
    plots = _write_plots(place, [*runs, *controls], shown)
    sections = _sections(comparison, plots)
    paths = {"md": place / "report.md", "html": place / "report.html", **plots}
    write_text(paths["md"], _markdown(sections))
    write_text(paths["html"], _html(sections))
    return paths


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out single runs: policy, seed, status, accuracy, keep, compute, seconds, weights, id."""
    header = ("policy", "seed", "status", "test accuracy %", "test loss", "keep", "compute")
    return Table(
        header=(*header, "seconds", "weights", "run id"),
        rows=tuple(_run_cells(run) for run in runs),
    )


def _run_cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = run.get("test_accuracy")
    return (
        str(run["policy"]),
        str(run.get("seed", "-")),
        str(run.get("status", "-")),
        _number(None if accuracy is None else 100 * accuracy, 2),
        _number(run.get("test_loss"), 4),
        _number(run.get("mean_keep"), 3),
        format_flops(run.get("charged_flops")),
        format_seconds(run.get("seconds")),
        (run.get("weights_sha256") or "-")[:12],
        run.get("run_id") or "-",
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _controls_summary(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the controls' summary, tested against the comparison's baseline."""
    if comparison.get("controls_summary"):
        return list(comparison["controls_summary"])
    controls = list(comparison.get("controls") or ())
    if not controls:
        return []
    baseline = comparison.get("baseline") or comparison["summary"][0]["baseline"]
    names = {str(run["policy"]) for run in controls}
    rows = summarize([*comparison["runs"], *controls], str(baseline))
    return [row for row in rows if row["policy"] in names]


def _write_plots(
    folder: Path, runs: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]]
) -> dict[str, Path]:
    paths = {name: folder / f"{name}.png" for name in ("accuracy", "keep_ratio", "seconds")}
    plot_accuracy_against_compute(runs, summary, paths["accuracy"])
    plot_keep_ratio(runs, paths["keep_ratio"])
    plot_seconds(runs, paths["seconds"])
    return paths


Section = tuple[str, Sequence[Table | Path | str]]


def _sections(comparison: Mapping[str, Any], plots: Mapping[str, Path]) -> list[Section]:
    """Return the report's parts: titles with tables, pictures, and preformatted text."""
    setting = comparison.get("setting")
    sections: list[Section] = [
        ("Result", [comparison_table(comparison["summary"], setting=setting)]),
        ("Accuracy against charged compute", [plots["accuracy"]]),
        ("Keep ratio", [plots["keep_ratio"]]),
        ("Seconds by phase", [plots["seconds"]]),
    ]
    controls = _controls_summary(comparison)
    if controls:
        sections.insert(1, ("Controls", [comparison_table(controls, setting=setting)]))
    runs = [*comparison["runs"], *(comparison.get("controls") or ())]
    sections.append(("Runs", [runs_table(runs)]))
    sections.append(("How to repeat it", [_command(comparison), *_facts(comparison)]))
    return sections


def _command(comparison: Mapping[str, Any]) -> str:
    command = comparison.get("command") or ""
    words = command if isinstance(command, str) else shlex.join(str(word) for word in command)
    return mask_secrets(words)


def _facts(comparison: Mapping[str, Any]) -> list[Table]:
    tables = []
    for key in ("hardware", "versions"):
        facts = comparison.get(key) or {}
        pairs = facts.items() if isinstance(facts, Mapping) else [(key, facts)]
        rows = tuple((str(name), mask_secrets(str(value))) for name, value in pairs)
        if rows:
            tables.append(Table(header=(key, ""), rows=rows))
    return tables


def _markdown(sections: Sequence[Section]) -> str:
    parts = ["# Comparison"]
    for title, blocks in sections:
        parts.append(f"## {title}")
        for block in blocks:
            if isinstance(block, Table):
                parts.append(block.markdown())
                parts += [block.caption] if block.caption else []
            elif isinstance(block, Path):
                parts.append(f"![{title}]({block.name})")
            elif block:
                parts.append(f"```\n{block}\n```")
    return "\n\n".join(parts) + "\n"


def _html(sections: Sequence[Section]) -> str:
    body = ["<h1>Comparison</h1>"]
    for title, blocks in sections:
        body.append(f"<h2>{html.escape(title)}</h2>")
        body += [_html_block(title, block) for block in blocks if block]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Comparison</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _html_block(title: str, block: Table | Path | str) -> str:
    if isinstance(block, Table):
        note = f'<p class="caption">{html.escape(block.caption)}</p>' if block.caption else ""
        return f'<div class="wide">{block.html()}</div>{note}'
    if isinstance(block, Path):
        data = base64.b64encode(block.read_bytes()).decode()
        return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
    return f"<pre>{html.escape(block)}</pre>"
