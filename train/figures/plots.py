"""Plots of runs and comparisons, as PNG, with one color per policy; no global state."""

from __future__ import annotations

import functools
import io
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import sha256, write_bytes
from gstds.train.figures import statistics
from gstds.train.figures.statistics import Band, Curve, by_policy, curves, finished, mean_band
from gstds.train.figures.tables import flop_unit, judged_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Run = Mapping[str, Any]
Rows = Sequence[Run]
Points = Sequence[tuple[float, float]]

_MANY = f"{statistics.FEWEST_FOR_A_BAND} seeds or more"
_BAND = f"mean; thin: each seed, or band: 95% CI ({_MANY}); dotted: control; dashed: broke off"
_MEAN = "accuracy (%), mean ± 95% CI"
_BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
_SECONDS = "seconds of selecting and training"
_APART = ("monitor", "checkpoint", "features", "probe")
_CONTROL = "random:"
SHORT_FULL = "short-full"
# The colors that MLflow's UI knows for runs and groups of runs.
RUN_COLORS = (
    "#a6630c", "#c83243", "#b45091", "#8a63bf", "#434a93", "#137dae", "#04867d", "#308613",
    "#facb66", "#1f272d", "#445461", "#5f7281", "#8396a5", "#93320b", "#be501e", "#de7921",
    "#f2be88", "#115026", "#277c43", "#3ba65e", "#8ddda8", "#9e102c", "#c82d4c", "#e65b77",
    "#f792a6", "#0e538b", "#2272b4", "#4299e0", "#8acaff",
)  # fmt: skip
_COLORED = RUN_COLORS[:9] + RUN_COLORS[13:]  # without the greys
_DASH = 4.0  # in line widths
_SAME = 0.01
# Where a name may stand beside its point: right, up, in points of type.
_PLACES = [
    (side * right, up, "left" if side > 0 else "right")
    for right in (9, 14, 22)
    for up in (0, 9, -9, 18, -18, 27, -27)
    for side in (1, -1)
]


def plot_accuracy_against_compute(runs: Rows, summary: Rows, path: str | Path) -> None:
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
    for row, point in _points(summary, "charged_flops", size):
        color, hollow = policy_color(str(row["policy"])), is_control(str(row["policy"]))
        look = {"mfc": "white", "mec": color} if hollow else {"mfc": color, "mec": "white"}
        axes.plot(*point, "o", markersize=8, zorder=5, **look)
    axes.set_xlabel(f"charged compute ({unit})")
    axes.set_title(
        f"lines: validation, {_BAND}\npoints: {judged_on(summary)}", fontsize=7.5, loc="left"
    )
    order = [(not is_control(str(row["policy"])), row.get("mean") or 0.0) for row in summary]
    _draw_finals(finals, [summary[i] for i in sorted(range(len(summary)), key=order.__getitem__)])
    save_figure(figure, path)


def plot_accuracy_against_seconds(runs: Rows, path: str | Path) -> None:
    """Draw validation accuracy against the seconds of selecting and training."""
    names = list(by_policy(runs))
    figure, axes = new_figure(8.2, _height_with_legend(4.4, len(names)))
    _draw_curves(axes, runs, names, "seconds", 1.0)
    axes.set_xlabel(_SECONDS)
    axes.set_title(_BAND, fontsize=8)
    _explain(axes, names)
    save_figure(figure, path)


def plot_kept_over_time(runs: Rows, path: str | Path) -> None:
    """Draw the keep ratio and the class coverage of what was kept over progress, means of seeds."""
    groups = by_policy(runs)
    figure, (left, right) = new_figure(11.0, _height_with_legend(3.8, len(groups)), columns=2)
    keeps = {name: mean_band(_interval_keeps(group)) for name, group in groups.items()}
    dashes = _interleaved(keeps)
    for name, group in groups.items():
        covered = mean_band(curves(group, "progress", "class_coverage"))
        _draw_band(left, keeps[name], policy_color(name), dashes[name])
        _draw_band(right, covered, policy_color(name))
    _explain(right, groups)
    about = {"xlabel": "progress (share of the run)", "xlim": (0, 1)}
    left.set(**about, ylabel="keep ratio, mean since the last evaluation", ylim=(0, 1.03))
    right.set(**about, ylabel="class coverage of the kept, likewise")
    right.set_ylim(top=1.01)
    save_figure(figure, path)


def plot_seconds(runs: Rows, path: str | Path) -> None:
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
            look = {"color": _phase_color(phase), "edgecolor": "white", "linewidth": 0.4}
            axes.barh(list(tables), width, left=left, label=label, hatch=hatch, **look)
            left += width
    axes.set(ylim=(len(tables) - 0.4, -0.6), xlabel="seconds, mean over seeds")
    axes.grid(visible=False, axis="y")
    _draw_legend(axes)
    save_figure(figure, path)


def plot_run(history: Rows, keep: Sequence[float]) -> bytes:
    """Draw one run: accuracy against charged compute, and the keep ratio of each step.

    Args:
        history: The run's evaluations.
        keep: The realized keep ratio of each step (T,).

    Returns:
        A PNG.
    """
    figure, (left, right) = new_figure(9.0, 3.6, columns=2)
    size, unit = flop_unit([row.get("charged_flops") for row in history])
    for curve in _accuracies([{"history": history}], "charged_flops", size):
        left.plot(*curve, "o-", color=policy_color("gstds"), markersize=3)
    left.set(xlabel=f"charged compute ({unit})", ylabel="validation accuracy (%)")
    right.plot(np.arange(1, len(keep) + 1), keep, ".", color=policy_color("best"), markersize=2)
    right.set(xlabel="step", ylabel="keep ratio (share retained)", ylim=(0, 1.03))
    return as_png(figure)


def plot_sweep(points: Sequence[tuple[str, Run, float]], path: str | Path) -> None:
    """Draw accuracy against each key of a sweep: a point for each run, and the mean by value.

    Args:
        points: Of each run its policy, the values of its keys, and its accuracy.
        path: The PNG to write.
    """
    keys = list(dict.fromkeys(key for _, values, _ in points for key in values))
    figure, every = new_figure(1.5 + 4.0 * max(1, len(keys)), 3.8, columns=max(1, len(keys)))
    for axes, key in zip(np.atleast_1d(every), keys, strict=False):
        values = list(dict.fromkeys(v[key] for _, v, _ in points if key in v))
        numeric = all(type(value) in (int, float) for value in values)
        place = {v: v if numeric else i for i, v in enumerate(sorted(values, key=str))}
        for policy in dict.fromkeys(policy for policy, _, _ in points):
            own = [(place[v[key]], 100 * y) for p, v, y in points if p == policy and key in v]
            at = sorted({x for x, _ in own})
            means = [np.mean([y for other, y in own if other == x]) for x in at]
            axes.plot(*np.array(own).reshape(-1, 2).T, "o", ms=4, alpha=0.6, c=policy_color(policy))
            style = ":" if is_control(policy) else "-"
            axes.plot(at, means, style, color=policy_color(policy), label=policy)
        if not numeric:
            axes.set_xticks(list(place.values()), [str(value) for value in place])
        axes.set_xlabel(key)
    np.atleast_1d(every)[0].set_ylabel("validation accuracy (%)")
    _draw_legend(np.atleast_1d(every)[-1])
    save_figure(figure, path)


def _explain(axes: Axes, names: Iterable[str]) -> None:
    for name in names:
        axes.plot([], [], "-", color=policy_color(name), label=name, linewidth=3)
    _draw_legend(axes)


def _points(summary: Rows, cost: str, size: float) -> list[tuple[Any, tuple[float, float]]]:
    """Return the rows that have both, with their cost in units and their accuracy in percent."""
    there = [row for row in summary if None not in (row.get("mean"), row.get(cost))]
    return [(row, (row[cost] / size, 100 * row["mean"])) for row in there]


# ------------------------------------------------------------------------------ curves over a run


def _draw_curves(axes: Axes, runs: Rows, names: Sequence[str], x: str, size: float) -> None:
    """Draw validation accuracy in percent: a mean and its band by policy, and broken runs."""
    groups = by_policy(runs)
    for name in names:
        group, color = groups.get(name, []), policy_color(name)
        each = _accuracies(finished(group), x, size)
        _draw_band(axes, mean_band(each), color, ":" if is_control(name) else "-")
        for curve in each if 1 < len(each) < statistics.FEWEST_FOR_A_BAND else ():
            axes.plot(*curve, color=color, linewidth=0.6, alpha=0.6)
        for curve in _accuracies((run for run in group if not finished([run])), x, size):
            axes.plot(*curve, "--", color=color, linewidth=1)
    axes.set_ylabel("accuracy (%)")
    axes.set_xlim(left=0)
    # The steep climb is left out: the differences that matter are near the top.
    whole = [y for _, y in _accuracies(finished(runs), x, size)]
    if whole:
        values, ends = np.concatenate(whole), np.array([y[-1] for y in whole])
        bottom = max(values.min() - 1, ends.min() - max(12.0, np.ptp(ends)))
        axes.set_ylim(bottom, min(101.0, values.max() + 0.1 * (values.max() - bottom)))


def _accuracies(runs: Iterable[Run], x: str, size: float) -> list[Curve]:
    return [(a / size, 100 * b) for a, b in curves(runs, x, "val_accuracy")]


def _draw_band(axes: Axes, band: Band | None, color: str, style: Any = "-") -> None:
    if band is None:
        return
    axes.plot(band.x, band.mean, color=color, linewidth=1.8, linestyle=style)
    if band.half_width is not None:
        low, high = band.mean - band.half_width, band.mean + band.half_width
        axes.fill_between(band.x, low, high, color=color, alpha=0.12, linewidth=0)


def _interval_keeps(runs: Iterable[Run]) -> list[Curve]:
    """Return progress and the mean keep ratio since the evaluation before, of each run."""
    found = []
    for run in runs:
        rows = [r for r in run.get("history", ()) if r.get("progress") is not None]
        if rows and all(r.get("mean_keep") is not None for r in rows):
            points = [(r["progress"], r["step"], r["step"] * r["mean_keep"]) for r in rows]
            done, steps, kept = np.array([(0.0, 0.0, 0.0), *points]).T
            taken = np.diff(steps) > 0
            middle = (done[1:] + done[:-1]) / 2
            found.append((middle[taken], np.diff(kept)[taken] / np.diff(steps)[taken]))
        else:
            found += curves([run], "progress", "keep_ratio")
    return [curve for curve in found if len(curve[0])]


def _interleaved(bands: Mapping[str, Band | None]) -> dict[str, Any]:
    """Return a line style for each curve: curves that coincide take turns in one dashed line.

    Policies often share a schedule; drawn over one another only the last would be seen.
    """
    groups: dict[str, list[str]] = {}
    for name, band in bands.items():
        first = next((one for one in groups if _coincide(band, bands[one])), name)
        groups.setdefault(first, []).append(name)
    styles: dict[str, Any] = dict.fromkeys(bands, "-")
    for group in groups.values():
        for i, name in enumerate(group if len(group) > 1 else ()):
            styles[name] = (_DASH * i, (_DASH, _DASH * (len(group) - 1)))
    return styles


def _coincide(one: Band | None, other: Band | None) -> bool:
    if one is None or other is None or not len(one.x) or not len(other.x):
        return False
    return bool(np.abs(np.interp(one.x, other.x, other.mean) - one.mean).max() < _SAME)


def _mean_phases(runs: Rows) -> dict[str, float]:
    tables = [run["seconds_by_phase"] for run in runs if run.get("seconds_by_phase")]
    phases = dict.fromkeys(phase for table in tables for phase in table)
    return {p: sum(float(t.get(p, 0.0)) for t in tables) / len(tables) for p in phases}


# ------------------------------------------------------------------------------ rows of a summary


def _draw_finals(axes: Axes, rows: Rows) -> None:
    """Draw each row's mean accuracy with its interval, one line each, the last on top."""
    for i, row in enumerate(rows):
        if row.get("mean") is not None:
            _draw_mean(axes, row, y=i, capsize=4)
            mean = 100 * row["mean"]
            axes.annotate(f"{mean:.1f}", (mean, i), (0, 6), ha="center", **_BESIDE)
    names = [str(row["policy"]) for row in rows]
    axes.set_yticks(range(len(rows)), [f"{n} (control)" if is_control(n) else n for n in names])
    for name, label in zip(names, axes.get_yticklabels(), strict=True):
        label.set(color=policy_color(name), fontweight="bold")
    axes.set(ylim=(-0.6, len(rows) - 0.4), xlabel=f"{judged_on(rows)} {_MEAN}")


def plot_pareto(summary: Rows, path: str | Path) -> None:
    """Draw test accuracy against charged compute and against seconds, the Pareto front marked.

    Args:
        summary: As `gstds.train.figures.statistics.summarize` returns it, of policies and controls.
        path: The PNG to write.
    """
    size, unit = flop_unit([row.get("charged_flops") for row in summary])
    costs = [("charged_flops", size, f"charged compute ({unit})"), ("seconds", 1.0, _SECONDS)]
    costs = [cost for cost in costs if any(row.get(cost[0]) is not None for row in summary)]
    figure, every = new_figure(5.5 * max(1, len(costs)), 4.8, columns=max(1, len(costs)))
    for axes, (key, unit_of, about) in zip(np.atleast_1d(every), costs, strict=False):
        _draw_front(axes, summary, key, unit_of)
        axes.set_xlabel(about)
    np.atleast_1d(every)[0].set_ylabel(f"{judged_on(summary)} {_MEAN}")
    figure.suptitle("ringed and joined: no other is both cheaper and more accurate", fontsize=9)
    save_figure(figure, path)


def _draw_front(axes: Axes, summary: Rows, cost: str, size: float) -> None:
    there = _points(summary, cost, size)
    points = [point for _, point in there]
    front = np.array([points[i] for i in statistics.pareto_front(points)]).reshape(-1, 2).T
    axes.plot(*front, "-", color="#bbbbbb", zorder=1)
    axes.plot(*front, "o", ms=13, mfc="none", mec="#666666", zorder=2)
    for row, (x, _) in there:
        _draw_mean(axes, row, x, capsize=3, markersize=6)
    axes.set_xlim(left=0, right=1.15 * max((x for x, _ in points), default=1.0))
    if points:  # every point and its interval, but no interval wider than the points' own spread
        values = np.array([y for _, y in points])
        most = max(6.0, np.ptp(values))
        halves = np.array([min(most, 100 * (row.get("ci95") or 0.0)) for row, _ in there])
        low, high = (values - halves).min(), (values + halves).max()
        more = 0.08 * (high - low) + 0.2
        axes.set_ylim(max(0.0, low - more), min(101, high + more))
    _label_points(axes, [str(row["policy"]) for row, _ in there], points)


def _label_points(axes: Axes, names: Sequence[str], points: Points) -> None:
    """Write each name beside its point, where it covers no other name or point."""
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    figure.draw_without_rendering()
    centers = axes.transData.transform(points) if points else ()
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in centers]
    for name, point in zip(names, points, strict=True):
        look: dict[str, Any] = {"va": "center", "color": policy_color(name), "fontweight": "bold"}
        note = axes.annotate(name, point, (0, 0), **look, **_BESIDE)
        found = []
        for i, (right, up, side) in enumerate(_PLACES):
            note.set(position=(right, up), ha=side)
            box = note.get_window_extent()
            found.append((_crowding(box, taken, axes.bbox), i, box))
        _, best, box = min(found, key=lambda one: one[:2])
        note.set(position=_PLACES[best][:2], ha=_PLACES[best][2])
        taken.append(box)


def _crowding(box: Any, taken: Sequence[Any], frame: Any) -> float:
    """Return what a name covers of others, and how far it sticks out of the axes."""
    shared = [box.intersection(box, other) for other in taken]
    out = (frame.x0 - box.x0, box.x1 - frame.x1, frame.y0 - box.y0, box.y1 - frame.y1)
    covered = sum(part.width * part.height for part in shared if part is not None)
    return float(covered + 1000 * sum(max(0.0, gap) for gap in out))


# ------------------------------------------------------------------------------ what all share


def new_figure(
    width: float, height: float, columns: int = 1, width_ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """Return a figure and its axes.

    Args:
        width: In inches.
        height: In inches.
        columns: Axes beside one another.
        width_ratios: Their relative widths.
    """
    figure = blank_figure(width, height)
    axes = figure.subplots(1, columns, width_ratios=width_ratios)
    for one in np.atleast_1d(axes):
        one.grid(visible=True, color="#e4e4e4", linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def blank_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches, without matplotlib's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _draw_mean(axes: Axes, row: Run, x: Any = None, y: Any = None, **more: Any) -> None:
    """Draw a row's mean accuracy in percent with its interval: at ``x``, or at a height ``y``."""
    mean, half = 100 * row["mean"], row.get("ci95")
    error = None if half is None else 100 * half
    at = {"x": mean, "y": y, "xerr": error} if x is None else {"x": x, "y": mean, "yerr": error}
    name = str(row["policy"])
    hollow: dict[str, Any] = {"mfc": "white"} if is_control(name) else {}
    axes.errorbar(**at, fmt="o", color=policy_color(name), **hollow, **more)


def _height_with_legend(height: float, entries: int) -> float:
    """Return a figure's height in inches, enough for a legend of so many lines."""
    return max(height, 0.7 + 0.215 * entries)


def _draw_legend(axes: Axes) -> None:
    """Put the legend to the right of the axes, if there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG, atomically."""
    write_bytes(path, as_png(figure))


def is_control(name: str) -> bool:
    """Return whether a row is one that a comparison adds by itself."""
    return name.startswith(_CONTROL) or name == SHORT_FULL


def policy_color(name: str) -> str:
    """Return the color of a policy as ``#rrggbb``; unknown names get one from their digest.

    All are among `RUN_COLORS`, so that the UI can show them. Random samples with another policy's
    keep sequence have the paler shade of its color.
    """
    control = name.startswith(_CONTROL)
    name = name.removeprefix(_CONTROL)
    color = _palette()["policies"].get(name) or _COLORED[int(sha256(name), 16) % len(_COLORED)]
    if not control:
        return color
    paler = 0.5 * _parts(color) + 0.5 * 255
    others = (one for one in _COLORED if one != color)
    return min(others, key=lambda one: float(np.abs(_parts(one) - paler).sum()))


def _parts(color: str) -> npt.NDArray[np.float64]:
    return np.array(list(bytes.fromhex(color[1:])), dtype=float)


def _phase_color(name: str) -> str:
    """Return the color of a phase of a run, such as ``train``, as ``#rrggbb``."""
    return _palette()["phases"].get(name) or policy_color(name)


@functools.cache
def _palette() -> dict[str, dict[str, str]]:
    text = Path(__file__).with_name("palette.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
