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
    plot_run,
    plot_seconds,
)
from gstds.train.figures.statistics import summarize_controls
from gstds.train.figures.tables import Table, caption, comparison_table
from gstds.train.reporting.kept import view_of_kept
from gstds.train.reporting.kept_plots import plot_balance, plot_extremes
from gstds.train.reporting.page import (
    Block,
    Code,
    Items,
    Picture,
    Prose,
    Section,
    as_html,
    as_markdown,
)
from gstds.train.reporting.tables import (
    accuracy_table,
    controls_table,
    cost_table,
    findings,
    kept_table,
    runs_table,
    to_accuracy_table,
)
from gstds.train.tracking.store import mask_secrets

if TYPE_CHECKING:
    from gstds.envs.data.datasets import Data

__all__ = ["comparison_table", "plot_run", "runs_table", "write_report"]

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
    place = Path(folder)
    runs = [*comparison["runs"], *(comparison.get("controls") or ())]
    controls = _controls_summary(comparison)
    plots = _write_plots(place, runs, [*comparison["summary"], *controls])
    kept, note = _write_kept_plots(place, comparison, run_code)
    sections = _sections(comparison, controls, plots, kept, note)
    title = f"Comparison {comparison['name']}" if comparison.get("name") else "Comparison"
    paths = {"md": place / "report.md", "html": place / "report.html", **plots, **kept}
    write_text(paths["md"], as_markdown(title, sections))
    write_text(paths["html"], as_html(title, sections))
    return paths


def _controls_summary(comparison: Content) -> list[Mapping[str, Any]]:
    """Return the controls' summary, tested against the comparison's baseline."""
    if comparison.get("controls_summary"):
        return list(comparison["controls_summary"])
    controls = list(comparison.get("controls") or ())
    if not controls or not comparison["summary"]:
        return []
    return list(summarize_controls(comparison["runs"], controls, _baseline(comparison)))


def _baseline(comparison: Content) -> str:
    return str(comparison.get("baseline") or comparison["summary"][0]["baseline"])


# ---------------------------------------------------------------------------------- plots


def _write_plots(
    folder: Path, runs: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]]
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
        data = _load(comparison, run_code)
    except Exception as error:  # the data are a user's: anything may be wrong with them
        _log.info("what was kept is not shown: %s", error)
        reason = mask_secrets(str(error)).splitlines()[0][:200] if str(error) else "no reason given"
        return {}, f"Classes and images are left out: the data set is not at hand ({reason})."
    views = view_of_kept(folder, comparison["runs"], data)
    views = [view for view in views if view.share[view.share == view.share].std() > 0]
    if not views:
        return {}, "Classes and images are left out: no run's record of what it kept is at hand."
    shown = views[:_MOST_POLICIES_SHOWN]
    paths = {name: folder / f"{name}.png" for name in ("balance", "most_and_least")}
    plot_balance(shown, data.class_names, paths["balance"])
    plot_extremes(shown, data, paths["most_and_least"])
    return paths, _left_out(len(views) - len(shown))


def _left_out(count: int) -> str:
    return f"{count} more policies are not drawn." if count else ""


def _load(comparison: Content, run_code: bool) -> Data:
    from gstds.envs.data.datasets import load_data, names_code

    names = ("limit", "label_noise", "duplicates", "imbalance", "split_seed", "clean_validation")
    config = comparison.get("config")
    if not config:
        raise ValueError("the comparison's options are not known")
    name = config["dataset"]
    if names_code(name) and not run_code:
        raise ValueError(f"it is code; name it to run it: gstds report DIR --dataset {name}")
    options = {name: config[name] for name in (*names, "augment", "image_size")}
    return load_data(name, **options)


# ---------------------------------------------------------------------------------- sections


def _sections(
    comparison: Content,
    controls: Sequence[Mapping[str, Any]],
    plots: Mapping[str, Path],
    kept: Mapping[str, Path],
    note: str,
) -> list[Section]:
    summary, runs = comparison["summary"], comparison["runs"]
    everything = [*summary, *controls]
    every_run = [*runs, *(comparison.get("controls") or ())]
    about = caption(summary, setting=comparison.get("setting")) if summary else ""
    sections: list[Section] = [
        ("In short", [Prose(_lead(comparison)), Items(findings(comparison))]),
        ("Result", [accuracy_table(summary, about), Picture(plots["accuracy"])]),
        *_control_sections(comparison, controls),
        ("What accuracy costs", [cost_table(everything), Picture(plots["pareto"])]),
        ("Time to accuracy", _to_accuracy(comparison, every_run, plots)),
        ("Where the time went", [Picture(plots["seconds"])]),
        ("What was kept", _kept_blocks(everything, plots, kept, note)),
        ("Runs", [runs_table(every_run), *_errors(every_run)]),
        ("How to repeat it", [Code(_command(comparison)), *_facts(comparison)]),
    ]
    return [(title, [b for b in blocks if b]) for title, blocks in sections]


def _lead(comparison: Content) -> str:
    runs = comparison["runs"]
    first = runs[0] if runs else {}
    seeds = sorted({run.get("seed", 0) for run in runs})
    what = f"{first.get('dataset', '-')}, learner {first.get('learner', '-')}"
    lost = sum(1 for run in runs if run.get("status", "finished") != "finished")
    tail = (
        f" {lost} of {len(runs)} runs did not finish; they are shown, not averaged." if lost else ""
    )
    named = f", baseline {_baseline(comparison)}" if comparison["summary"] else ""
    return f"{what}, {comparison.get('setting')}, seeds {_list(seeds)}{named}.{tail}"


def _list(seeds: Sequence[int]) -> str:
    whole = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds)) or "-"


def _control_sections(comparison: Content, controls: Sequence[Mapping[str, Any]]) -> list[Section]:
    pairs = list(comparison.get("against_controls") or ())
    blocks: list[Block] = []
    if pairs:
        blocks.append(controls_table(pairs))
    if controls:
        blocks.append(accuracy_table(controls, _CONTROLS))
    return [("Controls", blocks)] if blocks else []


_CONTROLS = (
    "Controls, tested against the same baseline, p Holm over policies and controls together. "
    "random:NAME keeps as many samples of each batch as NAME did, but any; short-full is full "
    "training at the baseline's compute."
)


def _to_accuracy(
    comparison: Content, runs: Sequence[Mapping[str, Any]], plots: Mapping[str, Path]
) -> list[Block]:
    if not comparison["summary"]:
        return []
    baseline = _baseline(comparison)
    tables = [to_accuracy_table(runs, baseline, cost) for cost in ("charged_flops", "seconds")]
    return [*(t for t in tables if t is not None), Picture(plots["accuracy_seconds"])]


def _kept_blocks(
    summary: Sequence[Mapping[str, Any]],
    plots: Mapping[str, Path],
    kept: Mapping[str, Path],
    note: str,
) -> list[Block]:
    blocks: list[Block] = [kept_table(summary), Picture(plots["kept_over_time"])]
    if kept:
        blocks += [Picture(kept["balance"], _BALANCE), Picture(kept["most_and_least"], _EXTREMES)]
    return [*blocks, Prose(note)] if note else blocks


_BALANCE = (
    "Each class's share among the samples that were kept, over its share among those drawn: white "
    "is what random keep has."
)
_EXTREMES = (
    "The training images kept most and least often of the times they were drawn, over all seeds; "
    "of many that tie, any."
)


def _errors(runs: Sequence[Mapping[str, Any]]) -> list[Block]:
    lines = tuple(
        f"{run['policy']} seed {run.get('seed')}: {mask_secrets(str(run['error']))}"
        for run in runs
        if run.get("error")
    )
    return [Items(lines)] if lines else []


def _command(comparison: Content) -> str:
    command = comparison.get("command") or ""
    words = command if isinstance(command, str) else shlex.join(str(word) for word in command)
    return mask_secrets(words)


def _facts(comparison: Content) -> list[Table]:
    tables = []
    for key in ("hardware", "versions"):
        facts = comparison.get(key) or {}
        pairs = facts.items() if isinstance(facts, Mapping) else [(key, facts)]
        rows = tuple((str(name), mask_secrets(str(value))) for name, value in pairs)
        if rows:
            tables.append(Table(header=(key, ""), rows=rows))
    return tables
