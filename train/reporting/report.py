"""The report of a comparison, and the page of one over several data sets: tables, plots, words."""

from __future__ import annotations

import base64
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.files import write_text
from gstds.options.fields import names
from gstds.options.world import DataOptions
from gstds.train.figures import plots, statistics, tables
from gstds.train.figures.tables import Table, lay_out, metric_table, points
from gstds.train.reporting.kept import plot_balance, plot_extremes, view_of_kept
from gstds.train.running.options import dataset_folder
from gstds.train.tracking.store import mask_secrets

if TYPE_CHECKING:
    from gstds.envs.data.datasets import Data


_log = logging.getLogger(__name__)
Content = Mapping[str, Any]

_MOST_POLICIES_SHOWN = 12
_SHARES = (0.9, 0.95, 0.99, 1.0)
_SIGNIFICANT = 0.05


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
            ``against_controls`` and ``baseline``.
        run_code: Whether a data set ``module:function`` may be called for its images.

    Returns:
        The paths by name: ``md``, ``html`` and the plots.

    Raises:
        OSError: If the folder cannot be written.
    """
    place, summary = Path(folder), list(comparison["summary"])
    beside = comparison.get("controls") or ()
    runs = [*comparison["runs"], *beside]
    baseline = str(comparison.get("baseline") or summary[0]["baseline"]) if summary else ""
    controls = (
        statistics.summarize_controls(comparison["runs"], beside, baseline) if summary else []
    )
    known = ("accuracy", "accuracy_seconds", "pareto", "kept_over_time", "seconds")
    drawn = {name: place / f"{name}.png" for name in known}
    plots.plot_accuracy_against_compute(runs, [*summary, *controls], drawn["accuracy"])
    plots.plot_accuracy_against_seconds(runs, drawn["accuracy_seconds"])
    plots.plot_pareto([*summary, *controls], drawn["pareto"])
    plots.plot_kept_over_time(runs, drawn["kept_over_time"])
    plots.plot_seconds(runs, drawn["seconds"])
    kept, note = _plot_what_was_kept(place, comparison, run_code)
    command = comparison.get("command") or ""
    command = command if isinstance(command, str) else shlex.join(map(str, command))
    reached = [to_accuracy_table(runs, baseline, cost) for cost in ("charged_flops", "seconds")]
    values = {
        "title": f"Comparison {comparison.get('name') or ''}".strip(),
        "lead": _lead(comparison, baseline),
        "findings": findings(comparison),
        "summary": summary,
        "about": tables.caption(summary, setting=comparison.get("setting")) if summary else "",
        "pairs": statistics.with_holm(comparison.get("against_controls") or ()),
        "controls": controls,
        "to_accuracy": [table for table in reached if table],
        "runs": runs,
        "plots": drawn | kept,
        "note": note,
        "errors": [
            mask_secrets(f"{run['policy']} seed {run.get('seed')}: {run['error']}")
            for run in runs
            if run.get("error")
        ]
        + [f"{row} was left out: {why}" for row, why in comparison.get("left_out", {}).items()],
        "command": mask_secrets(command),
        "facts": [_facts(k, comparison[k]) for k in ("hardware", "versions") if comparison.get(k)],
    }
    paths = {"md": place / "report.md", "html": place / "report.html", **drawn, **kept}
    for form, path in (("markdown", paths["md"]), ("html", paths["html"])):
        write_text(path, _render("report.jinja", form, **values))
    return paths


def _render(template: str, form: str, **values: Any) -> str:
    """Return a page of a template, as ``markdown``, or as ``html``, where everything is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=form == "html",  # noqa: S701 - Markdown has no escapes
        loader=jinja2.PackageLoader("gstds.train.reporting"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    environment.filters["laid_out"] = lambda rows, name: metric_table(name, rows)
    page = environment.get_template(template).render(values, blocks=f"{form}.jinja")
    return page.strip() + "\n"


def _plot_what_was_kept(
    folder: Path, comparison: Content, run_code: bool
) -> tuple[dict[str, Path], str]:
    """Draw what was kept; return the plots, and a note where there are none."""
    try:
        data = _load(comparison.get("config"), run_code)
    except Exception as error:  # the data are a user's: anything may be wrong with them
        _log.info("what was kept is not shown: %s", error)
        reason = mask_secrets(str(error) or "no reason given").splitlines()[0][:200]
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
    options = {name: config[name] for name in names(DataOptions)}
    name = options.pop("dataset")
    if names_code(name) and not run_code:
        raise ValueError(f"it is code; name it to run it: gstds report DIR --dataset {name}")
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
    lost = len(runs) - len(statistics.finished(runs))
    if lost:
        text += f" {lost} of {len(runs)} runs did not finish; they are shown, not averaged."
    return text


def _facts(key: str, facts: Any) -> Table:
    pairs = facts.items() if isinstance(facts, Mapping) else [(key, facts)]
    return Table((key, ""), tuple((str(name), mask_secrets(str(value))) for name, value in pairs))


def to_accuracy_table(
    runs: Sequence[Content], baseline: str, cost: str = "charged_flops"
) -> Table | None:
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
    rows = [
        {"policy": name} | {str(goal): _reach(group, goal, size) for goal in goals}
        for name, group in found.items()
    ]
    return lay_out(
        rows,
        [("policy", "policy", "text"), *((str(g), f"{100 * g:.1f}%", "text") for g in goals)],
        f"{what} until validation accuracy is first there, mean over seeds: "
        f"{', '.join(f'{s:.0%}' for s in _SHARES)} of what {baseline} ends with. In brackets how "
        "many of the seeds got there, if not all; the mean is then over these.",
    )


def _reach(found: Sequence[Any], target: float, size: float) -> str:
    reached = (statistics.cost_to_accuracy(curve, target) for curve in found)
    costs = [cost for cost in reached if cost is not None]
    if not costs:
        return "-"
    text = tables.three_digits(sum(costs) / len(costs) / size)
    return text if len(costs) == len(found) else f"{text} ({len(costs)} of {len(found)})"


def findings(comparison: Content) -> tuple[str, ...]:
    """Say in a sentence for each policy how it stands to the baseline and to its control."""
    against = {
        str(row["policy"]): row
        for row in statistics.with_holm(comparison.get("against_controls", ()))
        if row["same"] == "keep sequence"
    }
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
            parts.append(_difference(control, str(control["control"])))
        lines.append("; ".join(parts) + ".")
    return tuple(lines)


def _difference(row: Content, other: str) -> str:
    text = f"{points(row, 'difference', '+.1f', 'difference_ci95')} points to {other}"
    p = row.get("p_holm")
    if p is None:
        return f"{text}, not tested"
    if row["n_pairs"] < tables.FEWEST_RUNS:
        return f"{text} ({row['n_pairs']} runs: too few to tell)"
    word = "a difference" if p < _SIGNIFICANT else "no difference shown"
    return f"{text} (p {tables.p_value(p)}: {word})"


def write_experiment(folder: Path, note: Content) -> Path:
    """Write ``experiment.md`` and one plot per data set; return the page's path.

    Args:
        folder: The experiment's folder.
        note: As `gstds.train.comparing.experiments.run_experiment` returns it.

    Raises:
        OSError: If the folder cannot be written.
    """
    parts = []
    for content in note["comparisons"]:
        summary, plot = content["summary"], dataset_folder(folder, content["dataset"]) / "rows.png"
        if summary:
            plots.plot_rows(summary, plot)
            table = tables.comparison_table(summary, setting=content["setting"])
            shown = {"plot": plot.relative_to(folder), "saving": saving_table(summary)}
            parts.append({**content, **shown, "table": table})
    page = folder / "experiment.md"
    write_text(page, _render("experiment.jinja", "markdown", note=note, parts=parts))
    return page


def saving_table(summary: Sequence[Content]) -> Table:
    """Lay out how much of the compute that was saved became seconds saved.

    Args:
        summary: As `gstds.train.figures.statistics.summarize` returns it.
    """
    rows = []
    for row in summary:
        compute, seconds = row.get("relative_compute"), row.get("relative_seconds")
        realized = None
        if compute is not None and seconds is not None and compute < 0.999:
            realized = (1 - seconds) / (1 - compute)
        if row["policy"] != "full":
            rows.append({**row, "realized": realized})
    return metric_table(
        "saving",
        rows,
        "Realized saving: share of seconds saved over share of operations saved. Seconds are "
        "those of loading, scoring, solving and training, without monitoring and reference.",
    )
