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
    height_with_legend,
    new_figure,
    save_figure,
)
from gstds.train.figures.palette import phase_color, policy_color
from gstds.train.figures.tables import flop_unit, judged_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "plot_accuracy_against_compute",
    "plot_accuracy_against_seconds",
    "plot_kept_over_time",
    "plot_run",
    "plot_seconds",
]

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
    figure, (axes, points) = new_figure(10.5, height, columns=2, width_ratios=(1.9, 1))
    names = [str(row["policy"]) for row in summary]
    _draw_curves(axes, runs, names, "charged_flops", size)
    for row in summary:
        _draw_point(axes, row, size, policy_color(str(row["policy"])))
    axes.set_xlabel(f"charged compute ({unit})")
    axes.set_title(f"line: validation ({_BAND}); point: {judged_on(summary)}", fontsize=7.5)
    _draw_finals(points, summary)
    save_figure(figure, path)


def plot_accuracy_against_seconds(runs: Sequence[Run], path: str | Path) -> None:
    """Draw validation accuracy against the seconds of selecting and training."""
    names = list(dict.fromkeys(str(run["policy"]) for run in runs))
    figure, axes = new_figure(8.2, height_with_legend(4.4, len(names)))
    _draw_curves(axes, runs, names, "seconds", 1.0)
    axes.set_xlabel("seconds of selecting and training")
    axes.set_title(_BAND, fontsize=8)
    for name in names:
        axes.plot([], [], color=policy_color(name), label=name, linewidth=3)
    draw_legend(axes)
    save_figure(figure, path)


def plot_kept_over_time(runs: Sequence[Run], path: str | Path) -> None:
    """Draw the keep ratio and the class coverage of what was kept over progress, means of seeds."""
    names = list(dict.fromkeys(str(run["policy"]) for run in runs))
    figure, (left, right) = new_figure(11.0, height_with_legend(3.8, len(names)), columns=2)
    keeps = {name: [_interval_keep(run) for run in _of(runs, name)] for name in names}
    dashes = _interleaved({name: mean_band(_drawable(several)) for name, several in keeps.items()})
    for name in names:
        group = _of(runs, name)
        _draw_band(left, keeps[name], policy_color(name), dashes[name])
        _draw_band(right, curves(group, "progress", "class_coverage"), policy_color(name))
        right.plot([], [], "-", color=policy_color(name), label=name, linewidth=3)
    left.set_ylabel("keep ratio, mean since the last evaluation")
    right.set_ylabel("class coverage of the kept, likewise")
    for axes in (left, right):
        axes.set_xlabel("progress (share of the run)")
        axes.set_xlim(0, 1)
    left.set_ylim(0, 1.03)
    right.set_ylim(top=1.01)
    draw_legend(right)
    save_figure(figure, path)


def plot_seconds(runs: Sequence[Run], path: str | Path) -> None:
    """Draw each policy's mean seconds by phase as a stacked bar; hatched is not counted."""
    names = list(dict.fromkeys(str(run["policy"]) for run in runs))
    tables = [_mean_phases(_of(runs, name)) for name in names]
    largest = {p: max(t.get(p, 0.0) for t in tables) for p in {p for t in tables for p in t}}
    whole = max((sum(t.values()) for t in tables), default=0.0)
    phases = sorted(largest, key=lambda p: (p in _APART, -largest[p], p))
    figure, axes = new_figure(8.2, 1.6 + 0.42 * len(names))
    left = np.zeros(len(names))
    for phase in phases:
        width = np.array([table.get(phase, 0.0) for table in tables])
        if largest[phase] >= 0.002 * whole:
            hatch = "///" if phase in _APART else None
            label = f"{phase} (not counted)" if phase in _APART else phase
            axes.barh(
                names, width, left=left, color=phase_color(phase), label=label, hatch=hatch,
                edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            left += width
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("seconds, mean over seeds")
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
    figure, axes = new_figure(9.0, 3.6, columns=2)
    size, unit = flop_unit([row.get("charged_flops") for row in history])
    for x, y in curves([{"history": history}], "charged_flops", "val_accuracy"):
        axes[0].plot(x / size, 100 * y, "o-", color=policy_color("gstds"), markersize=3)
    axes[0].set_xlabel(f"charged compute ({unit})")
    axes[0].set_ylabel("validation accuracy (%)")
    axes[1].plot(np.arange(1, len(keep) + 1), keep, ".", color=policy_color("best"), markersize=2)
    axes[1].set_xlabel("step")
    axes[1].set_ylabel("keep ratio (share retained)")
    axes[1].set_ylim(0, 1.03)
    return as_png(figure)


def _of(runs: Iterable[Run], policy: str) -> list[Run]:
    return [run for run in runs if str(run["policy"]) == policy]


def _finished(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.get("status", "finished") == "finished"]


def _broken(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.get("status", "finished") != "finished"]


def _draw_curves(
    axes: Axes, runs: Sequence[Run], names: Sequence[str], x: str, size: float
) -> None:
    """Draw validation accuracy in percent: a mean and its band by policy, and broken runs."""
    for name in names:
        group, color = _of(runs, name), policy_color(name)
        _draw_band(axes, _accuracies(_finished(group), x, size), color)
        for abscissa, accuracy in _accuracies(_broken(group), x, size):
            axes.plot(abscissa, accuracy, "--", color=color, linewidth=1)
    axes.set_ylabel("accuracy (%)")
    axes.set_xlim(left=0)
    _limit_to_top(axes, _accuracies(_finished(runs), x, size))


def _accuracies(runs: Iterable[Run], x: str, size: float) -> list[Curve]:
    return [(a / size, 100 * b) for a, b in curves(runs, x, "val_accuracy")]


def _interval_keep(run: Run) -> Curve:
    """Return progress and the mean keep ratio since the evaluation before."""
    rows = [r for r in run.get("history", ()) if r.get("progress") is not None]
    if rows and all(r.get("mean_keep") is not None for r in rows):
        steps = np.array([0.0, *(r["step"] for r in rows)])
        kept = np.array([0.0, *(r["step"] * r["mean_keep"] for r in rows)])
        done = np.array([r["progress"] for r in rows], dtype=np.float64)
        middle = (done + np.concatenate([[0.0], done[:-1]])) / 2
        taken = np.diff(steps) > 0
        return middle[taken], np.diff(kept)[taken] / np.diff(steps)[taken]
    return next(iter(curves([run], "progress", "keep_ratio")), (np.zeros(0), np.zeros(0)))


def _drawable(several: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in several if len(curve[0])]


def _interleaved(bands: Mapping[str, Band | None]) -> dict[str, Any]:
    """Return a line style for each curve: curves that coincide take turns in one dashed line.

    Policies often share a schedule; drawn over one another only the last would be seen.
    """
    groups: list[list[str]] = []
    for name, band in bands.items():
        same = (group for group in groups if _coincide(band, bands[group[0]]))
        found = next(same, None)
        if found is None:
            groups.append([name])
        else:
            found.append(name)
    return {
        name: (_DASH * i, (_DASH, _DASH * (len(group) - 1))) if len(group) > 1 else "-"
        for group in groups
        for i, name in enumerate(group)
    }


def _coincide(one: Band | None, other: Band | None) -> bool:
    if one is None or other is None or not len(one.x) or not len(other.x):
        return False
    return bool(np.abs(np.interp(one.x, other.x, other.mean) - one.mean).max() < _SAME)


def _draw_band(axes: Axes, several: Sequence[Curve], color: str, style: Any = "-") -> None:
    band = mean_band(_drawable(several))
    if band is None:
        return
    axes.plot(band.x, band.mean, color=color, linewidth=1.8, linestyle=style)
    if band.half_width is not None:
        low, high = band.mean - band.half_width, band.mean + band.half_width
        axes.fill_between(band.x, low, high, color=color, alpha=0.12, linewidth=0)


def _draw_point(axes: Axes, row: Mapping[str, Any], size: float, color: str) -> None:
    if row.get("mean") is not None and row.get("charged_flops") is not None:
        x, y = row["charged_flops"] / size, 100 * row["mean"]
        axes.plot([x], [y], "o", color=color, markeredgecolor="white", markersize=8, zorder=5)


def _draw_finals(axes: Axes, summary: Sequence[Mapping[str, Any]]) -> None:
    """Draw each policy's mean test accuracy with its interval, one line each, best on top."""
    rows = sorted(summary, key=lambda row: -1.0 if row.get("mean") is None else row["mean"])
    for i, row in enumerate(rows):
        if row.get("mean") is None:
            continue
        error = None if row.get("ci95") is None else [100 * row["ci95"]]
        color = policy_color(str(row["policy"]))
        axes.errorbar([100 * row["mean"]], [i], xerr=error, fmt="o", color=color, capsize=4)
        axes.annotate(
            f"{100 * row['mean']:.1f}",
            (100 * row["mean"], i),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(rows)), [str(row["policy"]) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(policy_color(str(row["policy"])))
        label.set_fontweight("bold")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"{judged_on(summary)} accuracy (%), mean ± 95% CI")


def _limit_to_top(axes: Axes, several: Sequence[Curve]) -> None:
    """Leave out the steep climb: the differences that matter are near the top."""
    ends = [float(y[-1]) for _, y in several]
    if ends:
        lowest = min(float(y.min()) for _, y in several)
        bottom = max(lowest - 1, min(ends) - max(12.0, max(ends) - min(ends)))
        highest = max(float(y.max()) for _, y in several)
        axes.set_ylim(bottom, min(101.0, highest + 0.1 * (highest - bottom)))


def _mean_phases(runs: Sequence[Run]) -> dict[str, float]:
    tables = [run["seconds_by_phase"] for run in runs if run.get("seconds_by_phase")]
    phases = dict.fromkeys(phase for table in tables for phase in table)
    return {p: sum(float(t.get(p, 0.0)) for t in tables) / len(tables) for p in phases}
