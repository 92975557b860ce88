"""Plots of runs and comparisons, as PNG; matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.train.figures.curves import FEWEST_FOR_A_BAND, Band, Curve, curves, mean_band
from gstds.train.figures.frame import (
    as_png,
    draw_legend,
    draw_mean,
    height_with_legend,
    new_figure,
    save_figure,
)
from gstds.train.figures.palette import phase_color, policy_color
from gstds.train.figures.statistics import by_policy, finished
from gstds.train.figures.tables import flop_unit, judged_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_accuracy_against_compute", "plot_accuracy_against_seconds", "plot_kept_over_time"]
__all__ += ["plot_run", "plot_seconds"]

Run = Mapping[str, Any]

_BAND = f"mean over seeds, band: 95% CI ({FEWEST_FOR_A_BAND} seeds or more), dashed: did not finish"
_APART = ("monitor", "checkpoint", "features", "probe")
_DASH = 4.0  # in line widths
_SAME = 0.01


def plot_accuracy_against_compute(
    runs: Sequence[Run], summary: Sequence[Mapping[str, Any]], path: str | Path
) -> None:
    """Draw validation accuracy against charged compute, and the final test accuracies.

    Lines are means over the finished seeds of the validation accuracy, bands their 95% interval,
    dashed lines single runs that did not finish; points are mean test accuracies with theirs.

    Args:
        runs: Results of runs with their ``history``.
        summary: As `gstds.train.figures.statistics.summarize` returns it.
        path: The PNG to write.
    """
    size, unit = flop_unit([run.get("charged_flops") for run in runs])
    height = max(4.6, 1.2 + 0.3 * len(summary))
    figure, (axes, finals) = new_figure(10.5, height, columns=2, width_ratios=(1.9, 1))
    _draw_curves(axes, runs, [str(row["policy"]) for row in summary], "charged_flops", size)
    for row in summary:
        if row.get("mean") is not None and row.get("charged_flops") is not None:
            axes.plot(
                [row["charged_flops"] / size], [100 * row["mean"]], "o", markersize=8, zorder=5,
                color=policy_color(str(row["policy"])), markeredgecolor="white",
            )  # fmt: skip
    axes.set_xlabel(f"charged compute ({unit})")
    axes.set_title(f"line: validation ({_BAND}); point: {judged_on(summary)}", fontsize=7.5)
    _draw_finals(finals, summary)
    save_figure(figure, path)


def plot_accuracy_against_seconds(runs: Sequence[Run], path: str | Path) -> None:
    """Draw validation accuracy against the seconds of selecting and training."""
    names = list(by_policy(runs))
    figure, axes = new_figure(8.2, height_with_legend(4.4, len(names)))
    _draw_curves(axes, runs, names, "seconds", 1.0)
    axes.set_xlabel("seconds of selecting and training")
    axes.set_title(_BAND, fontsize=8)
    _explain(axes, names)
    save_figure(figure, path)


def plot_kept_over_time(runs: Sequence[Run], path: str | Path) -> None:
    """Draw the keep ratio and the class coverage of what was kept over progress, means of seeds."""
    groups = by_policy(runs)
    figure, (left, right) = new_figure(11.0, height_with_legend(3.8, len(groups)), columns=2)
    keeps = {name: mean_band(_interval_keeps(group)) for name, group in groups.items()}
    dashes = _interleaved(keeps)
    for name, group in groups.items():
        _draw_band(left, keeps[name], policy_color(name), dashes[name])
        covered = mean_band(curves(group, "progress", "class_coverage"))
        _draw_band(right, covered, policy_color(name))
    left.set_ylabel("keep ratio, mean since the last evaluation")
    right.set_ylabel("class coverage of the kept, likewise")
    for axes in (left, right):
        axes.set(xlabel="progress (share of the run)", xlim=(0, 1))
    left.set_ylim(0, 1.03)
    _explain(right, groups)
    right.set_ylim(top=1.01)
    save_figure(figure, path)


def plot_seconds(runs: Sequence[Run], path: str | Path) -> None:
    """Draw each policy's mean seconds by phase as a stacked bar; hatched is not counted."""
    tables = {name: _mean_phases(group) for name, group in by_policy(runs).items()}
    largest = {p: max(t.get(p, 0.0) for t in tables.values()) for t in tables.values() for p in t}
    whole = max((sum(t.values()) for t in tables.values()), default=0.0)
    figure, axes = new_figure(8.2, 1.6 + 0.42 * len(tables))
    left = np.zeros(len(tables))
    for phase in sorted(largest, key=lambda p: (p in _APART, -largest[p], p)):
        if largest[phase] >= 0.002 * whole:
            width = np.array([table.get(phase, 0.0) for table in tables.values()])
            label, hatch = (f"{phase} (not counted)", "///") if phase in _APART else (phase, None)
            axes.barh(
                list(tables), width, left=left, color=phase_color(phase), label=label, hatch=hatch,
                edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            left += width
    axes.set(ylim=(len(tables) - 0.4, -0.6), xlabel="seconds, mean over seeds")
    axes.grid(visible=False, axis="y")
    draw_legend(axes)
    save_figure(figure, path)


def plot_run(history: Sequence[Mapping[str, Any]], keep: Sequence[float]) -> bytes:
    """Draw one run: accuracy against charged compute, and the keep ratio of each step.

    Args:
        history: The run's evaluations.
        keep: The realized keep ratio of each step (T,).

    Returns:
        A PNG.
    """
    figure, (left, right) = new_figure(9.0, 3.6, columns=2)
    size, unit = flop_unit([row.get("charged_flops") for row in history])
    for x, y in _accuracies([{"history": history}], "charged_flops", size):
        left.plot(x, y, "o-", color=policy_color("gstds"), markersize=3)
    left.set(xlabel=f"charged compute ({unit})", ylabel="validation accuracy (%)")
    right.plot(np.arange(1, len(keep) + 1), keep, ".", color=policy_color("best"), markersize=2)
    right.set(xlabel="step", ylabel="keep ratio (share retained)", ylim=(0, 1.03))
    return as_png(figure)


def _explain(axes: Axes, names: Iterable[str]) -> None:
    for name in names:
        axes.plot([], [], "-", color=policy_color(name), label=name, linewidth=3)
    draw_legend(axes)


def _draw_curves(
    axes: Axes, runs: Sequence[Run], names: Sequence[str], x: str, size: float
) -> None:
    """Draw validation accuracy in percent: a mean and its band by policy, and broken runs."""
    groups = by_policy(runs)
    for name in names:
        group, color = groups.get(name, []), policy_color(name)
        _draw_band(axes, mean_band(_accuracies(finished(group), x, size)), color)
        broken = (run for run in group if not finished([run]))
        for curve in _accuracies(broken, x, size):
            axes.plot(*curve, "--", color=color, linewidth=1)
    axes.set_ylabel("accuracy (%)")
    axes.set_xlim(left=0)
    _limit_to_top(axes, _accuracies(finished(runs), x, size))


def _accuracies(runs: Iterable[Run], x: str, size: float) -> list[Curve]:
    return [(a / size, 100 * b) for a, b in curves(runs, x, "val_accuracy")]


def _interval_keeps(runs: Iterable[Run]) -> list[Curve]:
    """Return progress and the mean keep ratio since the evaluation before, of each run."""
    found = []
    for run in runs:
        rows = [r for r in run.get("history", ()) if r.get("progress") is not None]
        if rows and all(r.get("mean_keep") is not None for r in rows):
            steps = np.array([0.0, *(r["step"] for r in rows)])
            kept = np.array([0.0, *(r["step"] * r["mean_keep"] for r in rows)])
            done = np.array([r["progress"] for r in rows], dtype=np.float64)
            middle = (done + np.concatenate([[0.0], done[:-1]])) / 2
            taken = np.diff(steps) > 0
            found.append((middle[taken], np.diff(kept)[taken] / np.diff(steps)[taken]))
        else:
            found += curves([run], "progress", "keep_ratio")
    return [curve for curve in found if len(curve[0])]


def _interleaved(bands: Mapping[str, Band | None]) -> dict[str, Any]:
    """Return a line style for each curve: curves that coincide take turns in one dashed line.

    Policies often share a schedule; drawn over one another only the last would be seen.
    """
    groups: list[list[str]] = []
    for name, band in bands.items():
        same = (group for group in groups if _coincide(band, bands[group[0]]))
        group = next(same, None)
        if group is None:
            groups.append(group := [])
        group.append(name)
    return {
        name: (_DASH * i, (_DASH, _DASH * (len(group) - 1))) if len(group) > 1 else "-"
        for group in groups
        for i, name in enumerate(group)
    }


def _coincide(one: Band | None, other: Band | None) -> bool:
    if one is None or other is None or not len(one.x) or not len(other.x):
        return False
    return bool(np.abs(np.interp(one.x, other.x, other.mean) - one.mean).max() < _SAME)


def _draw_band(axes: Axes, band: Band | None, color: str, style: Any = "-") -> None:
    if band is None:
        return
    axes.plot(band.x, band.mean, color=color, linewidth=1.8, linestyle=style)
    if band.half_width is not None:
        low, high = band.mean - band.half_width, band.mean + band.half_width
        axes.fill_between(band.x, low, high, color=color, alpha=0.12, linewidth=0)


def _draw_finals(axes: Axes, summary: Sequence[Mapping[str, Any]]) -> None:
    """Draw each policy's mean test accuracy with its interval, one line each, best on top."""
    rows = sorted(summary, key=lambda row: -1.0 if row.get("mean") is None else row["mean"])
    for i, row in enumerate(rows):
        if row.get("mean") is not None:
            draw_mean(axes, row, y=i, capsize=4)
            axes.annotate(
                f"{100 * row['mean']:.1f}", (100 * row["mean"], i), xytext=(0, 6),
                textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), [str(row["policy"]) for row in rows])
    for label in axes.get_yticklabels():
        label.set(color=policy_color(label.get_text()), fontweight="bold")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"{judged_on(summary)} accuracy (%), mean ± 95% CI")


def _limit_to_top(axes: Axes, several: Sequence[Curve]) -> None:
    """Leave out the steep climb: the differences that matter are near the top."""
    if several:
        ends = [float(y[-1]) for _, y in several]
        lowest, highest = (float(f(np.concatenate([y for _, y in several]))) for f in (min, max))
        bottom = max(lowest - 1, min(ends) - max(12.0, max(ends) - min(ends)))
        axes.set_ylim(bottom, min(101.0, highest + 0.1 * (highest - bottom)))


def _mean_phases(runs: Sequence[Run]) -> dict[str, float]:
    tables = [run["seconds_by_phase"] for run in runs if run.get("seconds_by_phase")]
    phases = dict.fromkeys(phase for table in tables for phase in table)
    return {p: sum(float(t.get(p, 0.0)) for t in tables) / len(tables) for p in phases}
