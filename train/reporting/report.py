"""The report of a comparison: its tables and plots, and everything needed to repeat it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.files import write_text
from gstds.train.figures.pareto import plot_pareto
from gstds.train.figures.plots import (
    plot_accuracy_against_compute,
    plot_accuracy_against_seconds,
    plot_kept_over_time,
    plot_seconds,
)
from gstds.train.figures.statistics import finished, summarize_controls, with_holm
from gstds.train.figures.tables import Table, caption
from gstds.train.reporting.kept import view_of_kept
from gstds.train.reporting.kept_plots import plot_balance, plot_extremes
from gstds.train.reporting.page import render
from gstds.train.reporting.tables import findings, to_accuracy_table
from gstds.train.tracking.store import mask_secrets

if TYPE_CHECKING:
    from gstds.envs.data.datasets import Data

__all__ = ["write_report"]

_log = logging.getLogger(__name__)
Content = Mapping[str, Any]

_MOST_POLICIES_SHOWN = 12


def write_report(
    folder: str | Path, comparison: Content, *, run_code: bool = True
) -> dict[str, Path]:
    """Write ``report.md``, ``report.html`` and the plots of a comparison, each atomically.

    What was kept is read from the runs' folders under ``folder``, and shown if the data set is at
    hand; a note says where it is not.

    Args:
        folder: Where to write; made if missing.
        comparison: ``command`` (text or words), ``setting``, ``versions``, ``hardware``, ``runs``
            and ``summary``; optionally ``name``, ``config``, ``controls`` (runs),
            ``controls_summary``, ``against_controls`` and ``baseline``.
        run_code: Whether a data set ``module:function`` may be called for its images.

    Returns:
        The paths by name: ``md``, ``html`` and the plots.

    Raises:
        OSError: If the folder cannot be written.
    """
    place, summary = Path(folder), list(comparison["summary"])
    runs = [*comparison["runs"], *(comparison.get("controls") or ())]
    baseline = str(comparison.get("baseline") or summary[0]["baseline"]) if summary else ""
    controls = list(comparison.get("controls_summary") or ())
    if summary and not controls:
        controls = summarize_controls(
            comparison["runs"], comparison.get("controls") or (), baseline
        )
    plots = _write_plots(place, runs, [*summary, *controls])
    kept, note = _write_kept_plots(place, comparison, run_code)
    reached = [to_accuracy_table(runs, baseline, cost) for cost in ("charged_flops", "seconds")]
    values = {
        "title": f"Comparison {comparison.get('name') or ''}".strip(),
        "lead": _lead(comparison, baseline),
        "findings": findings(comparison),
        "summary": summary,
        "about": caption(summary, setting=comparison.get("setting")) if summary else "",
        "pairs": with_holm(comparison.get("against_controls") or ()),
        "controls": controls,
        "to_accuracy": [table for table in reached if table],
        "runs": runs,
        "plots": plots | kept,
        "note": note,
        "errors": [
            f"{run['policy']} seed {run.get('seed')}: {mask_secrets(str(run['error']))}"
            for run in runs
            if run.get("error")
        ]
        + [f"{row} was left out: {why}" for row, why in comparison.get("left_out", {}).items()],
        "command": _command(comparison),
        "facts": [t for key in ("hardware", "versions") for t in _facts(key, comparison.get(key))],
    }
    paths = {"md": place / "report.md", "html": place / "report.html", **plots, **kept}
    write_text(paths["md"], render("report.jinja", "markdown", **values))
    write_text(paths["html"], render("report.jinja", "html", **values))
    return paths


def _write_plots(
    folder: Path, runs: Sequence[Content], summary: Sequence[Content]
) -> dict[str, Path]:
    names = ("accuracy", "accuracy_seconds", "pareto", "kept_over_time", "seconds")
    paths = {name: folder / f"{name}.png" for name in names}
    plot_accuracy_against_compute(runs, summary, paths["accuracy"])
    plot_accuracy_against_seconds(runs, paths["accuracy_seconds"])
    plot_pareto(summary, paths["pareto"])
    plot_kept_over_time(runs, paths["kept_over_time"])
    plot_seconds(runs, paths["seconds"])
    return paths


def _write_kept_plots(
    folder: Path, comparison: Content, run_code: bool
) -> tuple[dict[str, Path], str]:
    """Draw what was kept; return the plots, and a note where there are none."""
    try:
        data = _load(comparison.get("config"), run_code)
    except Exception as error:  # the data are a user's: anything may be wrong with them
        _log.info("what was kept is not shown: %s", error)
        reason = mask_secrets(str(error)).splitlines()[0][:200] if str(error) else "no reason given"
        return {}, f"Classes and images are left out: the data set is not at hand ({reason})."
    views = view_of_kept(folder, comparison["runs"], data)
    views = [view for view in views if view.share[view.share == view.share].std() > 0]
    if not views:
        return {}, "Classes and images are left out: no run's record of what it kept is at hand."
    shown, more = views[:_MOST_POLICIES_SHOWN], len(views) - _MOST_POLICIES_SHOWN
    paths = {name: folder / f"{name}.png" for name in ("balance", "most_and_least")}
    plot_balance(shown, data.class_names, paths["balance"])
    plot_extremes(shown, data, paths["most_and_least"])
    return paths, f"{more} more policies are not drawn." if more > 0 else ""


def _load(config: Content | None, run_code: bool) -> Data:
    from gstds.envs.data.datasets import load_data, names_code

    if not config:
        raise ValueError("the comparison's options are not known")
    name = config["dataset"]
    if names_code(name) and not run_code:
        raise ValueError(f"it is code; name it to run it: gstds report DIR --dataset {name}")
    names = ("limit", "label_noise", "duplicates", "imbalance", "split_seed", "clean_validation")
    return load_data(name, **{key: config[key] for key in (*names, "augment", "image_size")})


def _lead(comparison: Content, baseline: str) -> str:
    runs = comparison["runs"]
    first = runs[0] if runs else {}
    seeds = sorted({run.get("seed", 0) for run in runs})
    whole = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    named = f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds)) or "-"
    against = f", baseline {baseline}" if baseline else ""
    lost = len(runs) - len(finished(runs))
    tail = f" {lost} of {len(runs)} runs did not finish; they are shown, not averaged."
    return (
        f"{first.get('dataset', '-')}, learner {first.get('learner', '-')}, "
        f"{comparison.get('setting')}, seeds {named}{against}.{tail if lost else ''}"
    )


def _command(comparison: Content) -> str:
    command = comparison.get("command") or ""
    return mask_secrets(command if isinstance(command, str) else shlex.join(map(str, command)))


def _facts(key: str, facts: Any) -> list[Table]:
    pairs = facts.items() if isinstance(facts, Mapping) else [(key, facts)]
    rows = tuple((str(name), mask_secrets(str(value))) for name, value in pairs)
    return [Table(header=(key, ""), rows=rows)] if facts and rows else []
