"""Plots of runs and comparisons, as PNG; matplotlib without its global state."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.files import write_bytes
from train.palette import policy_color
from train.tables import flop_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_accuracy_against_compute", "plot_keep_ratio", "plot_run", "plot_seconds"]

Run = Mapping[str, Any]
Curve = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

_DPI = 130
_ACCURACY = ("charged_flops", "val_accuracy")
_PHASES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def plot_accuracy_against_compute(
    runs: Sequence[Run], summary: Sequence[Mapping[str, Any]], path: str | Path
) -> None:
    """Draw validation accuracy against charged compute, and the final test accuracies.

    Lines are means over the finished seeds of the validation accuracy, bands their range, dashed
    lines single runs that did not finish; points are mean test accuracies with their 95% intervals.

    Args:
        runs: Results of runs with their ``history``.
        summary: As `train.statistics.summarize` returns it.
        path: The PNG to write.
    """
    size, unit = flop_unit([run.get("charged_flops") for run in runs])
    figure, (axes, points) = _figure(10.5, 4.6, columns=2, width_ratios=(1.9, 1))
    for row in summary:
        name = str(row["policy"])
        group = _of(runs, name)
        color = policy_color(name)
        _draw_band(axes, _curves(_finished(group), *_ACCURACY, size), color)
        _draw_broken(axes, _curves(_broken(group), *_ACCURACY, size), color)
        _draw_point(axes, row, size, color)
    axes.set_xlabel(f"charged compute ({unit})")
    axes.set_ylabel("accuracy (%)")
    axes.set_title("line: validation, mean and range over seeds; point: test", fontsize=9)
    axes.set_xlim(left=0)
    _limit_to_top(axes, _curves(_finished(runs), *_ACCURACY, size))
    _draw_finals(points, summary)
    _save(figure, path)


def plot_keep_ratio(runs: Sequence[Run], path: str | Path) -> None:
    """Draw the keep ratio over progress: the mean over seeds of each policy, and the range."""
    figure, axes = _figure(8.2, 3.8)
    names = list(dict.fromkeys(str(run["policy"]) for run in runs))
    for i, name in enumerate(names):
        color = policy_color(name)
        curves = _curves(_of(runs, name), "progress", "keep_ratio", 1.0, percent=False)
        # Policies often share a schedule: the later, thinner line leaves the earlier one visible.
        width = min(7.0, 1.6 + 1.8 * (len(names) - 1 - i))
        _draw_band(axes, curves, color, width)
        axes.plot([], [], "-", color=color, label=name, linewidth=3)
    axes.set_xlabel("progress (share of the run)")
    axes.set_ylabel("keep ratio (share retained)")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    _legend(axes)
    _save(figure, path)


def plot_seconds(runs: Sequence[Run], path: str | Path) -> None:
    """Draw each policy's mean seconds by phase as a stacked bar, the longest first."""
    names = list(dict.fromkeys(str(run["policy"]) for run in runs))
    tables = [_mean_phases(_of(runs, name)) for name in names]
    phases = sorted({p for t in tables for p in t}, key=lambda p: -max(t.get(p, 0) for t in tables))
    figure, axes = _figure(8.2, 1.4 + 0.42 * len(names))
    left = np.zeros(len(names))
    for i, phase in enumerate(phases):
        width = np.array([table.get(phase, 0.0) for table in tables])
        axes.barh(names, width, left=left, color=_PHASES[i % len(_PHASES)], label=phase)
        left += width
    axes.invert_yaxis()
    axes.set_xlabel("seconds, mean over seeds")
    axes.grid(visible=False, axis="y")
    _legend(axes)
    _save(figure, path)


def plot_run(history: Sequence[Mapping[str, Any]], keep: Sequence[float]) -> bytes:
    """Draw one run: accuracy against charged compute, and the keep ratio of each step.

    Args:
        history: The run's evaluations.
        keep: The realized keep ratio of each step (T,).

    Returns:
        A PNG.
    """
    figure, axes = _figure(9.0, 3.6, columns=2)
    size, unit = flop_unit([row.get("charged_flops") for row in history])
    for x, y in _curves([{"history": history}], "charged_flops", "val_accuracy", size):
        axes[0].plot(x, y, "o-", color=policy_color("gstds"), markersize=3)
    axes[0].set_xlabel(f"charged compute ({unit})")
    axes[0].set_ylabel("validation accuracy (%)")
    axes[1].plot(np.arange(1, len(keep) + 1), keep, ".", color=policy_color("best"), markersize=2)
    axes[1].set_xlabel("step")
    axes[1].set_ylabel("keep ratio (share retained)")
    axes[1].set_ylim(0, 1.03)
    return _png(figure)


def _figure(
    width: float, height: float, columns: int = 1, width_ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, width_ratios=width_ratios)
    for one in np.atleast_1d(axes):
        one.grid(visible=True, color="#e4e4e4", linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _save(figure: Figure, path: str | Path) -> None:
    write_bytes(path, _png(figure))


def _of(runs: Iterable[Run], policy: str) -> list[Run]:
    return [run for run in runs if str(run["policy"]) == policy]


def _curves(
    runs: Iterable[Run], x: str, y: str, x_size: float, *, percent: bool = True
) -> list[Curve]:
    """Return (x, y) of each run that has both somewhere, in order of x."""
    curves = []
    for run in runs:
        rows = [(r[x], r[y]) for r in run.get("history", ()) if _both(r, x, y)]
        if rows:
            points = np.array(sorted(rows), dtype=np.float64)
            curves.append((points[:, 0] / x_size, points[:, 1] * (100 if percent else 1)))
    return curves


def _both(row: Mapping[str, Any], *keys: str) -> bool:
    return all(row.get(key) is not None and np.isfinite(row[key]) for key in keys)


def _finished(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.get("status", "finished") == "finished"]


def _broken(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.get("status", "finished") != "finished"]


def _draw_broken(axes: Axes, curves: Sequence[Curve], color: str) -> None:
    for x, y in curves:
        axes.plot(x, y, "--", color=color, linewidth=1)


def _draw_band(axes: Axes, curves: Sequence[Curve], color: str, width: float = 1.6) -> None:
    """Draw the mean of curves where all have values, and their range."""
    if not curves:
        return
    low = max(x[0] for x, _ in curves)
    high = min(x[-1] for x, _ in curves)
    every = np.unique(np.concatenate([x for x, _ in curves]))
    grid = every[(every >= low) & (every <= high)]
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    axes.plot(grid, values.mean(axis=0), color=color, linewidth=width)
    if len(curves) > 1:
        axes.fill_between(
            grid, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0
        )


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
    axes.set_xlabel("test accuracy (%), mean ± 95% CI")


def _limit_to_top(axes: Axes, curves: Sequence[Curve]) -> None:
    """Leave out the steep climb: the differences that matter are near the top."""
    ends = [float(y[-1]) for _, y in curves]
    if ends:
        lowest = min(float(y.min()) for _, y in curves)
        axes.set_ylim(bottom=max(lowest - 1, min(ends) - max(12.0, max(ends) - min(ends))))


def _mean_phases(runs: Sequence[Run]) -> dict[str, float]:
    tables = [run["seconds_by_phase"] for run in runs if run.get("seconds_by_phase")]
    phases = dict.fromkeys(phase for table in tables for phase in table)
    return {p: sum(float(t.get(p, 0.0)) for t in tables) / len(tables) for p in phases}
