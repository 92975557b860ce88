"""The tables of the report: accuracy, controls, what was kept, cost, cost to accuracy, runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gstds.train.figures.curves import cost_to_accuracy, curves
from gstds.train.figures.statistics import with_holm
from gstds.train.figures.tables import (
    FEWEST_RUNS,
    Table,
    accuracy_header,
    effect_size,
    fixed,
    flop_unit,
    format_flops,
    format_seconds,
    judged_on,
    lost_runs,
    p_value,
    points,
    three_digits,
)

__all__ = [
    "accuracy_table",
    "controls_table",
    "cost_table",
    "findings",
    "kept_table",
    "runs_table",
    "to_accuracy_table",
]

Row = Mapping[str, Any]
Cell = Callable[[Row], str]
_SHARES = (0.9, 0.95, 0.99, 1.0)
_SIGNIFICANT = 0.05


def _lay_out(rows: Sequence[Row], columns: Mapping[str, Cell], caption: str = "") -> Table:
    cells = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
    return Table(header=tuple(columns), rows=cells, caption=caption)


def accuracy_table(summary: Sequence[Row], caption: str = "") -> Table:
    """Lay out final accuracies with every test against the baseline."""
    tests: dict[str, Cell] = {
        "diff": lambda r: points(r, "difference", "difference_ci95", sign="+"),
        "d": lambda r: effect_size(r, 2),
        "p t": lambda r: p_value(r.get("p_value")),
        "p Holm": lambda r: p_value(r.get("p_holm")),
        "p flip": lambda r: p_value(r.get("sign_flip_p")),
    }
    return _lay_out(
        summary,
        {
            "policy": lambda r: str(r["policy"]),
            "runs": lost_runs,
            accuracy_header(summary): lambda r: points(r, "mean", "ci95"),
            **(tests if any(row.get("n_pairs") for row in summary) else {}),
            "worst class %": lambda r: points(r, "worst_class_accuracy", ""),
            "worst seed %": lambda r: points(r, "worst", ""),
            "test loss": lambda r: fixed(r.get("test_loss"), 3),
        },
        caption,
    )


def controls_table(rows: Sequence[Row]) -> Table:
    """Lay out the tests of policies against their controls."""
    return _lay_out(
        with_holm(rows),
        {
            "policy": lambda r: str(r["policy"]),
            "control": lambda r: str(r["control"]),
            "same": lambda r: str(r["same"]),
            "seeds": lambda r: str(r["n_pairs"]),
            "diff": lambda r: points(r, "difference", "difference_ci95", sign="+"),
            "d": lambda r: effect_size(r, 2),
            "p Holm": lambda r: p_value(r.get("p_holm")),
            "p flip": lambda r: p_value(r.get("sign_flip_p")),
            "compute": lambda r: fixed(r.get("compute_ratio"), 2, "×"),
        },
        "diff: policy minus control in points, paired by seed, with its 95% t interval; p Holm: "
        "paired t test, adjusted over the rows. compute: the policy's over the control's. Same "
        "keep sequence: random samples, as many of each batch as the policy kept (of its run with "
        "the same seed; under an equal budget at the same share of the budget). Same compute: all "
        "samples, but training is over, fully decayed, when the baseline's compute is spent.",
    )


def kept_table(summary: Sequence[Row]) -> Table:
    """Lay out how much was kept, and of how many classes and samples."""
    return _lay_out(
        summary,
        {
            "policy": lambda r: str(r["policy"]),
            "keep": lambda r: fixed(r.get("mean_keep"), 3),
            "drawn batches": lambda r: fixed(r.get("steps"), 0),
            "samples trained": lambda r: fixed(r.get("samples_trained"), 0),
            "class coverage": lambda r: fixed(r.get("class_coverage"), 3),
            "ever seen %": lambda r: points(r, "seen", ""),
        },
        "keep: kept over drawn. Class coverage: effective share of the classes among the samples "
        "kept between two evaluations, exp(entropy) over their number, mean over the run; 1 is "
        "all classes alike. Ever seen: share of the training set that was trained on at all.",
    )


def cost_table(summary: Sequence[Row]) -> Table:
    """Lay out charged compute with the reference both ways, seconds, and reference system time."""
    keys = {
        "": "charged_flops",
        "+ ref/R": "charged_flops_with_shared_reference",
        "+ ref": "charged_flops_with_reference",
    }
    size, unit = flop_unit([row.get(key) for row in summary for key in keys.values()])

    def compute(key: str) -> Cell:
        return lambda r: "-" if r.get(key) is None else three_digits(r[key] / size)

    return _lay_out(
        summary,
        {
            "policy": lambda r: str(r["policy"]),
            **{name or unit: compute(key) for name, key in keys.items()},
            "/ full": lambda r: fixed(r.get("relative_compute"), 2),
            "+ ref / full": lambda r: fixed(r.get("relative_compute_with_reference"), 2),
            "seconds": lambda r: format_seconds(r.get("seconds")),
            "s / full": lambda r: fixed(r.get("relative_seconds"), 2),
            "system s": lambda r: format_seconds(r.get("reference_system_seconds")),
            "sys / full": lambda r: fixed(r.get("relative_system_seconds"), 2),
        },
        "Seconds are those of selecting and training, without monitoring and without making the "
        "reference. System seconds: drawn batches × median step time, the medians taken among "
        "steps that kept alike: the same seconds without what disturbed single steps.",
    )


def to_accuracy_table(
    runs: Sequence[Row], baseline: str, cost: str = "charged_flops"
) -> Table | None:
    """Lay out what reaching a share of the baseline's final validation accuracy costs.

    Args:
        runs: Results of runs with their history.
        baseline: The policy whose accuracy is the measure.
        cost: ``charged_flops`` or ``seconds``.

    Returns:
        The table, or None if the baseline has no curve.
    """
    finished = [run for run in runs if run.get("status") == "finished"]
    by_policy: dict[str, list[Row]] = {}
    for run in finished:
        by_policy.setdefault(str(run["policy"]), []).append(run)
    ends = [y[-1] for _, y in curves(by_policy.get(baseline, []), cost, "val_accuracy")]
    if not ends:
        return None
    final = sum(ends) / len(ends)
    compute = cost == "charged_flops"
    size, unit = flop_unit([run.get(cost) for run in runs]) if compute else (1.0, "seconds")

    def cell(share: float) -> Cell:
        return lambda row: _reach(by_policy[row["policy"]], cost, share * final, size)

    columns: dict[str, Cell] = {"policy": lambda r: str(r["policy"])}
    columns |= {f"{100 * share * final:.1f}%": cell(share) for share in _SHARES}
    return _lay_out(
        [{"policy": name} for name in by_policy],
        columns,
        f"{f'Charged compute ({unit})' if compute else 'Seconds'} until validation accuracy is "
        f"first there, mean over seeds: {', '.join(f'{share:.0%}' for share in _SHARES)} of what "
        f"{baseline} ends with. In brackets how many of the seeds got there, if not all; the mean "
        "is then over these.",
    )


def _reach(runs: Sequence[Row], cost: str, target: float, size: float) -> str:
    found = curves(runs, cost, "val_accuracy")
    costs = [c for c in (cost_to_accuracy(curve, target) for curve in found) if c is not None]
    if not costs:
        return "-"
    text = three_digits(sum(costs) / len(costs) / size)
    return text if len(costs) == len(found) else f"{text} ({len(costs)} of {len(found)})"


def runs_table(runs: Sequence[Row]) -> Table:
    """Lay out single runs: policy, seed, status, accuracy, keep, compute, seconds, weights, id."""
    return _lay_out(
        runs,
        {
            "policy": lambda r: str(r["policy"]),
            "seed": lambda r: str(r.get("seed", "-")),
            "status": lambda r: str(r.get("status", "-")),
            "test accuracy %": lambda r: fixed(_percent(r.get("test_accuracy")), 2),
            "test loss": lambda r: fixed(r.get("test_loss"), 4),
            "keep": lambda r: fixed(r.get("mean_keep"), 3),
            "compute": lambda r: format_flops(r.get("charged_flops")),
            "seconds": lambda r: format_seconds(r.get("seconds")),
            "weights": lambda r: (r.get("weights_sha256") or "-")[:12],
            "run id": lambda r: r.get("run_id") or "-",
        },
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def findings(comparison: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in a sentence for each policy how it stands to the baseline and to its control."""
    against = {
        (str(row["policy"]), str(row["same"])): row
        for row in with_holm(comparison.get("against_controls", ()))
    }
    lines = []
    for row in comparison["summary"]:
        policy = str(row["policy"])
        parts = [f"{policy}: {points(row, 'mean', 'ci95')}% {judged_on([row])} accuracy"]
        if row.get("difference") is not None:
            parts.append(_difference(row, str(row["baseline"]), row.get("p_holm")))
        control = against.get((policy, "keep sequence"))
        if control and control["control"] != row["baseline"]:
            parts.append(_difference(control, str(control["control"]), control["p_holm"]))
        lines.append("; ".join(parts) + ".")
    return tuple(lines)


def _difference(row: Row, other: str, p: float | None) -> str:
    difference = points(row, "difference", "difference_ci95", sign="+")
    if p is None:
        return f"{difference} points to {other}, not tested"
    if row["n_pairs"] < FEWEST_RUNS:
        return f"{difference} points to {other} ({row['n_pairs']} runs: too few to tell)"
    word = "a difference" if p < _SIGNIFICANT else "no difference shown"
    return f"{difference} points to {other} (p {p_value(p)}: {word})"
