"""The report of a comparison: tables, plots, words, and what was kept: classes and images."""

from __future__ import annotations

import base64
import contextlib
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import write_text
from gstds.envs.batches.order import Draws
from gstds.envs.data.datasets import Data, load_data, names_code
from gstds.options.fields import names
from gstds.options.world import DataOptions
from gstds.train.figures import plots, statistics, tables
from gstds.train.figures.plots import blank_figure, policy_color, save_figure
from gstds.train.figures.tables import Table, metric_table, points
from gstds.train.running.kept import Kept, read_kept
from gstds.train.running.options import policy_path
from gstds.train.tracking.store import mask_secrets

_log = logging.getLogger(__name__)
Content = Mapping[str, Any]
Runs = Sequence[Content]
Paths = dict[str, Path]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_MOST_POLICIES_SHOWN = 12
_SHARES = (0.9, 0.95, 0.99, 1.0)
_BINS = 20
_PER_ROW = 4
_MOST_CLASSES_NAMED = 20
_OCTAVES = 1.5


def write_report(folder: str | Path, comparison: Content, *, run_code: bool = True) -> Paths:
    """Write ``report.md``, ``report.html`` and the plots of a comparison, each atomically.

    What was kept is read from the runs' folders under ``folder``, and shown if the data set is at
    hand; a note says where it is not.

    Args:
        folder: Where to write; made if missing.
        comparison: ``command`` (text or words), ``setting``, ``versions``, ``hardware``, ``runs``
            and ``summary``; optionally ``name``, ``config``, ``controls`` (runs),
            ``controls_summary`` and ``against_controls``.
        run_code: Whether a data set ``module:function`` may be called for its images.

    Returns:
        The paths by name: ``md``, ``html`` and the plots.

    Raises:
        OSError: If the folder cannot be written.
    """
    place, summary = Path(folder), list(comparison["summary"])
    runs = [*comparison["runs"], *(comparison.get("controls") or ())]
    controls = list(comparison.get("controls_summary") or ())
    baseline = str(summary[0]["baseline"]) if summary else ""
    timed = any(row.get("seconds") is not None for row in summary)
    known = ("accuracy", "pareto", "kept_over_time", *(("accuracy_seconds", "seconds") * timed))
    drawn = {name: place / f"{name}.png" for name in known}
    plots.plot_accuracy_against_compute(runs, [*summary, *controls], drawn["accuracy"])
    plots.plot_pareto([*summary, *controls], drawn["pareto"])
    plots.plot_kept_over_time(runs, drawn["kept_over_time"])
    if timed:
        plots.plot_accuracy_against_seconds(runs, drawn["accuracy_seconds"])
        plots.plot_seconds(runs, drawn["seconds"])
    if comparison.get("tuning"):
        drawn["tuning"] = place / "tuning.png"
        trials = comparison["tuning"]["trials"]
        done = [trial for trial in trials if trial["val_accuracy"] is not None]
        points_of = [(trial["row"], trial["values"], trial["val_accuracy"]) for trial in done]
        plots.plot_sweep(points_of, drawn["tuning"])
    kept, note = _plot_what_was_kept(place, comparison, run_code)
    command = comparison.get("command") or ""
    command = command if isinstance(command, str) else shlex.join(map(str, command))
    failed = [run for run in runs if run.get("error")]
    errors = [f"{run['policy']} seed {run.get('seed')}: {run['error']}" for run in failed]
    left_out = comparison.get("left_out", {}).items()
    errors += [f"{row} was left out: {why}" for row, why in left_out]
    costs = ("charged_flops", "seconds") if timed else ("charged_flops",)
    reached = [to_accuracy_table(runs, baseline, cost) for cost in costs]
    values = {
        "title": f"Comparison {comparison.get('name') or ''}".strip(),
        "lead": _lead(comparison, baseline),
        "findings": findings(comparison),
        "summary": summary,
        "about": tables.caption(summary, setting=comparison.get("setting")) if summary else "",
        "pairs": statistics.with_holm(comparison.get("against_controls") or ()),
        "controls": controls,
        "tuning": _ranked_trials(comparison.get("tuning")),
        "to_accuracy": [table for table in reached if table],
        "runs": runs,
        "plots": drawn | kept,
        "note": note,
        "errors": [mask_secrets(text) for text in errors],
        "command": mask_secrets(command),
        "facts": [_facts(k, comparison[k]) for k in ("hardware", "versions") if comparison.get(k)],
    }
    paths = {"md": place / "report.md", "html": place / "report.html", **drawn, **kept}
    for form, path in (("markdown", paths["md"]), ("html", paths["html"])):
        write_text(path, render("report.jinja", form, **values))
    return paths


def render(template: str, form: str, **values: Any) -> str:
    """Return a page of a template, as ``markdown``, or as ``html``, where everything is escaped."""
    import jinja2

    how: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    how |= {"autoescape": form == "html", "undefined": jinja2.StrictUndefined}
    loader = jinja2.PackageLoader("gstds.train.reporting")
    environment = jinja2.Environment(loader=loader, **how)  # noqa: S701 - Markdown has no escapes
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    environment.filters["laid_out"] = lambda rows, name: metric_table(name, rows)
    page = environment.get_template(template).render(values, blocks=f"{form}.jinja")
    return page.strip() + "\n"


def _ranked_trials(tuning: Content | None) -> Table | None:
    """Lay out a comparison's trials, each row's best first."""
    if not tuning:
        return None
    trials = tuning["trials"]
    groups = [
        [t for t in trials if t["row"] == row] for row in dict.fromkeys(t["row"] for t in trials)
    ]
    grid = ", ".join(f"{key}={values}" for key, values in tuning["grid"].items())
    about = "Accuracy on selection-validation, mean over the trials' seeds; the first of a row is "
    about += f"what it is compared with. Grid: {grid}"
    if tuning["widened"]:
        about += f"; its edge had won, so every row got {', '.join(tuning['widened'])} too"
    about += ". A row whose best is still an edge might gain beyond it."
    return metric_table(
        "ranking", [row for group in groups for row in statistics.rank(group)], about
    )


def _plot_what_was_kept(folder: Path, comparison: Content, run_code: bool) -> tuple[Paths, str]:
    """Draw what was kept; return the plots, and a note where there are none."""
    config, runs, more = comparison.get("config"), comparison["runs"], ""
    if comparison.get("splits") and config and runs:
        seed = min(run["seed"] for run in runs)
        config = {**config, "split_seed": config["split_seed"] + seed}
        runs = [run for run in runs if run["seed"] == seed]
        more = f"Splits vary with the seed: classes and images are of seed {seed} alone."
    try:
        data = data_of(config, run_code=run_code)
    except Exception as error:  # the data are a user's: anything may be wrong with them
        _log.info("what was kept is not shown: %s", error)
        reason = mask_secrets(str(error) or "no reason given").splitlines()[0][:200]
        return {}, f"Classes and images are left out: the data set is not at hand ({reason})."
    views = view_of_kept(folder, runs, data)
    views = [view for view in views if view.share[view.share == view.share].std() > 0]
    if not views:
        return {}, "Classes and images are left out: no run's record of what it kept is at hand."
    shown, others = views[:_MOST_POLICIES_SHOWN], len(views) - _MOST_POLICIES_SHOWN
    paths = {name: folder / f"{name}.png" for name in ("balance", "most_and_least")}
    plot_balance(shown, data.class_names, paths["balance"])
    plot_extremes(shown, data, paths["most_and_least"])
    notes = (more, f"{others} more policies are not drawn." * (others > 0))
    return paths, " ".join(filter(None, notes))


def data_of(config: Content | None, *, run_code: bool, command: str = "gstds report DIR") -> Data:
    """Return the data of a run or a comparison, by its options.

    Args:
        config: The options.
        run_code: Whether a ``module:function`` may be called.
        command: By which command, with ``--dataset``, that is said.

    Raises:
        ValueError: If it is code that may not be called, or the data are not at hand.
    """
    if not config:
        raise ValueError("the comparison's options are not known")
    options = {name: config[name] for name in names(DataOptions)}
    name = options.pop("dataset")
    if names_code(name) and not run_code:
        raise ValueError(f"it is code; name it to run it: {command} --dataset {name}")
    return load_data(name, **options)


def _lead(comparison: Content, baseline: str) -> str:
    runs = comparison["runs"]
    first = runs[0] if runs else {}
    seeds = sorted({run.get("seed", 0) for run in runs})
    whole = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    named = f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds)) or "-"
    against = f", baseline {baseline}" if baseline else ""
    text = f"{first.get('dataset', '-')}, learner {first.get('learner', '-')}, "
    text += f"{comparison.get('setting')}, seeds {named}{against}."
    if lost := len(runs) - len(statistics.finished(runs)):
        text += f" {lost} of {len(runs)} runs did not finish; they are shown, not averaged."
    return text


def _facts(key: str, facts: Content) -> Table:
    rows = ((name, mask_secrets(str(value))) for name, value in facts.items())
    return Table((key, ""), tuple(rows))


def to_accuracy_table(runs: Runs, baseline: str, cost: str = "charged_flops") -> Table | None:
    """Lay out what reaching a share of the baseline's final validation accuracy costs.

    Args:
        runs: Results of runs with their history.
        baseline: The policy whose accuracy is the measure.
        cost: ``charged_flops`` or ``seconds``.

    Returns:
        The table, or None if the baseline has no curve.
    """
    groups = statistics.by_policy(run for run in statistics.finished(runs) if run.get("status"))
    found = {name: statistics.curves(group, cost, "val_accuracy") for name, group in groups.items()}
    ends = [accuracy[-1] for _, accuracy in found.get(baseline, [])]
    if not ends:
        return None
    goals = [share * sum(ends) / len(ends) for share in _SHARES]
    size, what = 1.0, "Seconds"
    if cost == "charged_flops":
        size, unit = tables.flop_unit([run.get(cost) for run in runs])
        what = f"Charged compute ({unit})"
    rows = ((name, *(_reach(group, goal, size) for goal in goals)) for name, group in found.items())
    about = f"{what} until validation accuracy is first there, mean over seeds: "
    about += f"{', '.join(f'{s:.0%}' for s in _SHARES)} of what {baseline} ends with. In brackets "
    about += "how many of the seeds got there, if not all; the mean is then over these."
    return Table(("policy", *(f"{100 * goal:.1f}%" for goal in goals)), tuple(rows), about)


def _reach(found: Sequence[Any], target: float, size: float) -> str:
    reached = (statistics.cost_to_accuracy(curve, target) for curve in found)
    costs = [cost for cost in reached if cost is not None]
    if not costs:
        return "-"
    text = tables.three_digits(sum(costs) / len(costs) / size)
    return text if len(costs) == len(found) else f"{text} ({len(costs)} of {len(found)})"


def findings(comparison: Content) -> tuple[str, ...]:
    """Say in a sentence for each policy how it stands to the baseline and to its control."""
    pairs = statistics.with_holm(comparison.get("against_controls", ()))
    against = {row["policy"]: row for row in pairs if row["same"] == "keep sequence"}
    lines = []
    for row in comparison["summary"]:
        policy, baseline = str(row["policy"]), str(row["baseline"])
        parts = [
            f"{policy}: {points(row, 'mean', '.1f', 'ci95')}% {tables.judged_on([row])} accuracy"
        ]
        if row.get("relative_compute") is not None:
            parts[0] += f" at {row['relative_compute']:.0%} of full training's compute"
            if row.get("reference_flops"):
                whole = row["relative_compute_with_reference"]
                parts[0] += f" ({whole:.0%} with the whole reference)"
        if row.get("difference") is not None:
            parts.append(_difference(row, baseline))
        control = against.get(policy)
        if control and control["control"] != baseline:
            parts.append(_difference(control, control["control"]))
        lines.append("; ".join(parts) + ".")
    return tuple(lines)


def _difference(row: Content, other: str) -> str:
    text = f"{points(row, 'difference', '+.1f', 'difference_ci95')} points to {other}"
    p = row.get("p_holm")
    if p is None:
        return f"{text}, not tested"
    if row["n_pairs"] < tables.FEWEST_RUNS:
        return f"{text} ({row['n_pairs']} runs: too few to tell)"
    return f"{text} (p {tables.p_value(p)}: {row['finding']})"


# ---------------------------------------------------------------------------- what was kept


@dataclass(frozen=True)
class KeptView:
    """What one policy kept, over its seeds.

    Attributes:
        policy: Its name.
        balance: By stretch of the run and class (B, C): the class's share among the kept, over its
            share among the drawn; NaN where nothing was kept.
        share: How often each training sample was kept, over how often it was drawn (n,); NaN if it
            was never drawn.
        most: The samples kept most (k,), the most first.
        least: The samples kept least (k,), the least first.
    """

    policy: str
    balance: Floats
    share: Floats
    most: Indices
    least: Indices


def kept_path(folder: Path, run: Mapping[str, Any]) -> Path:
    """Return where a run of the comparison in ``folder`` has its record of what it kept."""
    name = f"{policy_path(str(run['policy']))}-{run['seed']}-{run.get('identity')}"
    return folder / "runs" / name / "kept.npz"


def view_of_kept(folder: Path, runs: Runs, data: Data, shown: int = 8) -> list[KeptView]:
    """Return what each policy kept, in the order in which they appear.

    Runs that did not finish, whose record is missing, or that trained on other data than ``data``,
    are passed over.

    Args:
        folder: The comparison's folder.
        runs: Results of runs.
        data: What they trained on.
        shown: How many samples are picked at either end.
    """
    records: dict[str, list[Kept]] = {}
    for run in statistics.finished(runs):
        with contextlib.suppress(OSError):
            kept = read_kept(kept_path(folder, run))
            if len(kept.visits) == len(data.train):
                records.setdefault(str(run["policy"]), []).append(kept)
    return [_view(policy, kept, data, shown) for policy, kept in records.items()]


def _view(policy: str, kept: Sequence[Kept], data: Data, shown: int) -> KeptView:
    counts, by_class = zip(*(count_kept(record, data) for record in kept), strict=True)
    ours, drawn = np.sum(counts, axis=0)
    with np.errstate(invalid="ignore"):
        share = ours / np.where(drawn > 0, drawn, np.nan)
    balance = class_balance(*np.sum(by_class, axis=0))
    return KeptView(policy, balance, share, *most_and_least(share, shown))


def count_kept(record: Kept, data: Data) -> tuple[Indices, Indices]:
    """Count what was kept and drawn by sample (2, n), and by stretch and class (2, B, C)."""
    labels, classes = data.train.labels, data.num_classes
    steps, batch = record.masks.shape
    draws = Draws(len(labels), batch, record.order_seed)
    done = record.progress if record.progress is not None else np.arange(1, steps + 1) / steps
    stretch = np.minimum(_BINS - 1, (np.concatenate([[0.0], done[:-1]]) * _BINS).astype(np.int64))
    counts, by_class = np.zeros((2, len(labels)), np.int64), np.zeros((2, _BINS, classes), np.int64)
    there = np.arange(batch) < record.sizes[:, None]  # the rest of a row is padding
    for first in range(0, steps, draws.steps_per_epoch):
        rows = slice(first, first + draws.steps_per_epoch)
        mask = record.masks[rows][there[rows]]
        order = draws.order(draws.epoch(first))[: len(mask)]
        stretches = np.repeat(stretch[rows], record.sizes[rows])
        for i, which in enumerate((mask, np.ones_like(mask))):
            counts[i, order] += which
            np.add.at(by_class[i], (stretches[which], labels[order][which]), 1)
    return counts, by_class


def class_balance(kept: npt.ArrayLike, drawn: npt.ArrayLike) -> Floats:
    """Return each class's share among the kept over its share among the drawn.

    Args:
        kept: Kept samples by stretch and class (B, C).
        drawn: Drawn samples likewise.

    Returns:
        (B, C); 1 is what random keep has, NaN where nothing was kept or drawn.
    """
    ours, whole = np.asarray(kept, dtype=np.float64), np.asarray(drawn, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (counts / counts.sum(axis=1, keepdims=True) for counts in (ours, whole))
        return np.asarray(np.divide(*shares), dtype=np.float64)


def most_and_least(share: Floats, count: int) -> tuple[Indices, Indices]:
    """Return the samples with the highest and the lowest shares (k,), each the extreme first."""
    rising = by_rising_share(share)
    count = min(count, len(rising) // 2)
    return rising[::-1][:count], rising[:count]


def by_rising_share(share: Floats) -> Indices:
    """Return the samples that have a share, the lowest first.

    Ties are broken by a fixed shuffle: data sets are often sorted by class, and the first samples
    of a tie would all be of one.
    """
    known = np.flatnonzero(np.isfinite(share))
    known = known[np.random.default_rng(0).permutation(len(known))]
    return known[np.argsort(share[known], kind="stable")].astype(np.int64)


def plot_balance(views: Sequence[KeptView], class_names: Sequence[str], path: str | Path) -> None:
    """Draw, for each policy, each class's share among the kept over its share among the drawn.

    Args:
        views: One for each policy; at least one.
        class_names: Names (C,).
        path: The PNG to write.
    """
    columns, classes = min(_PER_ROW, len(views)), len(class_names)
    rows = -(-len(views) // columns)
    height = 1.1 + 0.16 * min(classes, _MOST_CLASSES_NAMED)
    figure = blank_figure(2.3 + 2.2 * columns, 0.5 + rows * height)
    every = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for first in every[:, 0]:
        if classes <= _MOST_CLASSES_NAMED:
            first.set_yticks(range(classes), [_short(n, 14) for n in class_names], fontsize=8)
        else:
            first.set_ylabel(f"{classes} classes")
    look = {"cmap": "RdBu_r", "vmin": -_OCTAVES, "vmax": _OCTAVES, "interpolation": "nearest"}
    look |= {"aspect": "auto", "extent": (0, 1, classes - 0.5, -0.5)}
    for view, axes in zip(views, every.flat, strict=False):
        with np.errstate(divide="ignore"):
            octaves = np.log2(view.balance.T)
        image = axes.imshow(np.clip(octaves, -_OCTAVES, _OCTAVES), **look)
        axes.set_title(view.policy, color=policy_color(view.policy), fontweight="bold", fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.set(xticks=[0, 0.5, 1], facecolor="#dddddd")
    for axes in every.flat[len(views) :]:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=every, shrink=0.9, ticks=[-1, 0, 1], pad=0.01)
    bar.ax.set_yticklabels(["half as\noften", "as drawn", "twice as\noften"], fontsize=8)
    figure.supxlabel("progress (share of the run)", fontsize=9)
    save_figure(figure, path)


def plot_extremes(views: Sequence[KeptView], data: Data, path: str | Path) -> None:
    """Draw the images that each policy kept most and least, with class and kept share.

    Args:
        views: One for each policy.
        data: What they trained on.
        path: The PNG to write.
    """
    shown = max(len(view.most) for view in views)
    figure = blank_figure(0.9 + 1.15 * shown, 0.35 + 0.88 * len(views))
    halves: Any = figure.subfigures(1, 2, wspace=0.03)
    for half, end in zip(halves, ("most", "least"), strict=True):
        half.suptitle(f"kept {end}", fontsize=10)
        for row, view in zip(half.subplots(len(views), shown, squeeze=False), views, strict=True):
            _draw_images(row, getattr(view, end), view, data)
            if end == "most":
                look = {"rotation": 0, "ha": "right", "va": "center", "fontweight": "bold"}
                look |= {"color": policy_color(view.policy), "fontsize": 9}
                row[0].set_ylabel(_short(view.policy, 18), **look)
    save_figure(figure, path)


def _draw_images(row: Any, samples: Indices, view: KeptView, data: Data) -> None:
    images = data.train.gather(samples).numpy()
    for axes in row:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for axes, sample, image in zip(row, samples, images, strict=False):
        pixels = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        label = _short(data.class_names[int(data.train.labels[sample])], 9)
        axes.set_xlabel(f"{label}\n{view.share[sample]:.0%}", fontsize=6.5, labelpad=1)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
