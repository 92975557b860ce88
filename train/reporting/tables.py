"""What the report says beyond its summary: cost to accuracy, and findings in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gstds.train.figures.curves import cost_to_accuracy, curves
from gstds.train.figures.statistics import by_policy, finished, with_holm
from gstds.train.figures.tables import (
    FEWEST_RUNS,
    Table,
    flop_unit,
    judged_on,
    lay_out,
    p_value,
    points,
    three_digits,
)

__all__ = ["findings", "to_accuracy_table"]

Row = Mapping[str, Any]
_SHARES = (0.9, 0.95, 0.99, 1.0)
_SIGNIFICANT = 0.05


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
    groups = by_policy(run for run in finished(runs) if run.get("status"))
    found = {name: curves(group, cost, "val_accuracy") for name, group in groups.items()}
    ends = [accuracy[-1] for _, accuracy in found.get(baseline, [])]
    if not ends:
        return None
    final = sum(ends) / len(ends)
    size, unit = 1.0, "seconds"
    if cost == "charged_flops":
        size, unit = flop_unit([run.get(cost) for run in runs])
    rows = [
        {"policy": name} | {str(s): _reach(group, s * final, size) for s in _SHARES}
        for name, group in found.items()
    ]
    return lay_out(
        rows,
        [("policy", "policy", "text")]
        + [(str(share), f"{100 * share * final:.1f}%", "text") for share in _SHARES],
        f"{'Seconds' if unit == 'seconds' else f'Charged compute ({unit})'} until validation "
        f"accuracy is first there, mean over seeds: {', '.join(f'{s:.0%}' for s in _SHARES)} of "
        f"what {baseline} ends with. In brackets how many of the seeds got there, if not all; the "
        "mean is then over these.",
    )


def _reach(found: Sequence[Any], target: float, size: float) -> str:
    costs = [c for c in (cost_to_accuracy(curve, target) for curve in found) if c is not None]
    if not costs:
        return "-"
    text = three_digits(sum(costs) / len(costs) / size)
    return text if len(costs) == len(found) else f"{text} ({len(costs)} of {len(found)})"


def findings(comparison: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in a sentence for each policy how it stands to the baseline and to its control."""
    against = {
        (str(row["policy"]), str(row["same"])): row
        for row in with_holm(comparison.get("against_controls", ()))
    }
    lines = []
    for row in comparison["summary"]:
        policy = str(row["policy"])
        parts = [f"{policy}: {points(row, 'mean', '.1f', 'ci95')}% {judged_on([row])} accuracy"]
        if row.get("difference") is not None:
            parts.append(_difference(row, str(row["baseline"]), row.get("p_holm")))
        control = against.get((policy, "keep sequence"))
        if control and control["control"] != row["baseline"]:
            parts.append(_difference(control, str(control["control"]), control["p_holm"]))
        lines.append("; ".join(parts) + ".")
    return tuple(lines)


def _difference(row: Row, other: str, p: float | None) -> str:
    text = f"{points(row, 'difference', '+.1f', 'difference_ci95')} points to {other}"
    if p is None:
        return f"{text}, not tested"
    if row["n_pairs"] < FEWEST_RUNS:
        return f"{text} ({row['n_pairs']} runs: too few to tell)"
    word = "a difference" if p < _SIGNIFICANT else "no difference shown"
    return f"{text} (p {p_value(p)}: {word})"
