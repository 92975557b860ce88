"""Statistics of a comparison: means, intervals, paired tests against the baseline.

Seeds are paired: every policy meets the same order, augmentation and initialization under the same
seed, so the test runs on the differences. Beside the t test stands the exact sign-flip test, which
assumes nothing but symmetry; with n seeds its p cannot go below 2 / 2^n (5 seeds: .0625).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "cohens_d",
    "confidence_half_width",
    "holm",
    "paired_rows",
    "paired_t",
    "sign_flip_p",
    "summarize",
    "summarize_controls",
    "with_holm",
]

Run = Mapping[str, Any]

_LEVEL = 0.95
_MOST_FLIPS = 40
_REASONS = ("failed", "diverged", "interrupted")


def summarize(
    runs: Sequence[Run],
    baseline: str,
    *,
    full: str = "full",
    reference_shared_by: int | None = None,
) -> list[dict[str, Any]]:
    """Summarize runs by policy, in the order in which the policies first appear.

    Means are over finished runs; ``n`` counts these, and the others are counted beside them.
    Nothing is NaN: what cannot be computed is None, such as an interval from one seed, or a t test
    on differences that are all the same.

    Args:
        runs: Results of runs, as in the JSON file. Accuracies are those of the test part; where no
            run has met it (``--no-test``), those of selection-validation.
        baseline: The policy that the others are tested against.
        full: The policy whose compute and seconds are the unit of the relative columns.
        reference_shared_by: How many runs share one reference; default all that use it. References
            of one cost and one accuracy are one.

    Returns:
        One JSON-able dictionary per policy.

    Raises:
        ValueError: If no run is of the baseline policy, or a policy has two finished runs of one
            seed.
    """
    groups = _by_policy(runs)
    if runs and baseline not in groups:
        raise ValueError(
            f"baseline {baseline!r} is not among the compared policies: {', '.join(groups)}"
        )
    users = Counter(_reference(run) for run in runs)
    shared_by = dict.fromkeys(users, reference_shared_by) if reference_shared_by else users
    unit = _full_unit(groups, full)
    part, key = _judged_on(runs)
    rows = [_row(name, group, key, shared_by, unit) for name, group in groups.items()]
    for row in rows:
        other = None if row["policy"] == baseline else groups[baseline]
        row.update(_against(groups[row["policy"]], other, key), judged_on=part)
    adjusted = holm({row["policy"]: row["p_value"] for row in rows})
    for row in rows:
        row["p_holm"] = adjusted[row["policy"]]
        row["baseline"] = baseline
    return rows


def summarize_controls(
    runs: Sequence[Run], controls: Sequence[Run], baseline: str
) -> list[dict[str, Any]]:
    """Summarize control runs by name, tested against the baseline of the runs beside them.

    Args:
        runs: The comparison's runs.
        controls: Its control runs.
        baseline: The runs' baseline.

    Raises:
        ValueError: If no run is of the baseline policy.
    """
    names = {str(run["policy"]) for run in controls}
    rows = summarize([*runs, *controls], baseline) if controls else []
    return [row for row in rows if row["policy"] in names]


def paired_rows(runs: Sequence[Run], pairs: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Test policies against other policies than the baseline, paired by seed.

    Args:
        runs: Results of runs and controls.
        pairs: (policy, the control that it is tested against, what both have in common).

    Returns:
        One JSON-able dictionary for each pair of which runs are there.

    Raises:
        ValueError: If a policy has two finished runs of one seed.
    """
    groups = _by_policy(runs)
    _, key = _judged_on(runs)
    rows = []
    for policy, control, common in pairs:
        if policy in groups and control in groups and policy != control:
            mine, theirs = groups[policy], groups[control]
            ratio = _ratio(_mean(mine, "charged_flops"), _mean(theirs, "charged_flops"))
            row = {"policy": policy, "control": control, "same": common, "compute_ratio": ratio}
            rows.append(row | _against(mine, theirs, key))
    return rows


def confidence_half_width(values: Sequence[float]) -> float | None:
    """Return the half-width of the 95% t interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy import stats

    deviation = float(np.std(values, ddof=1))
    quantile = float(stats.t.ppf(0.5 + _LEVEL / 2, len(values) - 1))
    return quantile * deviation / math.sqrt(len(values))


def paired_t(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of a paired t test.

    Args:
        differences: One difference per seed (n,).

    Returns:
        The p value; 1 if all differences are 0; None for fewer than two, or if all are the same
        but not 0, where t has no finite value.
    """
    if len(differences) < 2:
        return None
    values = np.asarray(differences, dtype=np.float64)
    if not np.any(values):
        return 1.0
    deviation = float(np.std(values, ddof=1))
    mean = float(np.mean(values))
    if deviation <= 1e-12 * abs(mean):
        return None
    from scipy import stats

    t = mean / (deviation / math.sqrt(len(values)))
    return float(2 * stats.t.sf(abs(t), len(values) - 1))


def cohens_d(differences: Sequence[float]) -> float | None:
    """Return Cohen's d of paired differences: their mean over their standard deviation.

    Args:
        differences: One difference per seed (n,).

    Returns:
        The effect size; 0 if all differences are 0; None for fewer than two, or if all are the
        same but not 0, where it has no finite value.
    """
    if len(differences) < 2:
        return None
    values = np.asarray(differences, dtype=np.float64)
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    if not np.any(values):
        return 0.0
    return None if deviation <= 1e-12 * abs(mean) else mean / deviation


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return the exact two-sided p of the sign-flip test: the share of 2^n flips as extreme.

    The sums of all flips of each half are listed and counted against each other (Horowitz and
    Sahni's meeting in the middle), so that 40 differences take a second.

    Args:
        differences: One difference per seed (n,).

    Returns:
        The p value; None for fewer than 2 or more than 40 differences.
    """
    count = len(differences)
    if not 2 <= count <= _MOST_FLIPS:
        return None
    values = np.asarray(differences, dtype=np.float64)
    # Sums that are equal in exact arithmetic differ by rounding; they must count as equal.
    bound = abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())
    if bound <= 0:
        return 1.0
    left = _flip_sums(values[: count // 2])
    right = np.sort(_flip_sums(values[count // 2 :]))
    above = len(right) - np.searchsorted(right, bound - left, side="left")
    # The flips are symmetric: as many sums lie below -bound.
    return 2.0 * int(above.sum()) / 2.0**count


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return Holm's adjusted p values (Holm 1979); None stays None and is not counted."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    running = 0.0
    for rank, (p, name) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[name] = running
    return adjusted


def with_holm(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with ``p_holm``: their ``p_value`` adjusted over all of them."""
    adjusted = holm({str(i): row.get("p_value") for i, row in enumerate(rows)})
    return [{**row, "p_holm": p} for row, p in zip(rows, adjusted.values(), strict=True)]


def _flip_sums(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _by_policy(runs: Iterable[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run["policy"]), []).append(run)
    return groups


def _finished(group: Iterable[Run]) -> list[Run]:
    return [run for run in group if run.get("status", "finished") == "finished"]


def _number(run: Run, key: str) -> float | None:
    value = run.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def _values(group: Iterable[Run], key: str) -> list[float]:
    return [v for v in (_number(run, key) for run in _finished(group)) if v is not None]


def _mean(group: Iterable[Run], key: str) -> float | None:
    values = _values(group, key)
    return math.fsum(values) / len(values) if values else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _judged_on(runs: Iterable[Run]) -> tuple[str, str]:
    """Return the part of the data that accuracies are of, and their key in a run's result."""
    finished = _finished(runs)
    tested = not finished or any(_number(run, "test_accuracy") is not None for run in finished)
    return ("test", "test_accuracy") if tested else ("selection-validation", "val_accuracy")


def _reference(run: Run) -> tuple[float | None, float | None]:
    """Return what tells the reference of a run from those of others."""
    return _number(run, "reference_flops"), _number(run, "reference_accuracy")


def _full_unit(groups: Mapping[str, list[Run]], full: str) -> dict[str, float | None]:
    """Return full training's charged compute (else by formula) and seconds (else None)."""
    listed = groups.get(full, [])
    charged = _mean(listed, "charged_flops")
    if charged is None:
        charged = _mean([run for group in groups.values() for run in group], "full_flops")
    times = {key: _mean(listed, key) for key in ("seconds", "reference_system_seconds")}
    return {"charged_flops": charged, **times}


def _row(
    policy: str,
    group: list[Run],
    key: str,
    shared_by: Mapping[Any, int],
    unit: Mapping[str, float | None],
) -> dict[str, Any]:
    accuracies = _values(group, key)
    charged, reference = _mean(group, "charged_flops"), _mean(group, "reference_flops")
    seconds, system = _mean(group, "seconds"), _mean(group, "reference_system_seconds")
    shares = [
        (_number(run, "reference_flops"), shared_by[_reference(run)]) for run in _finished(group)
    ]
    parts = [flops / count for flops, count in shares if flops is not None]
    shared = None if charged is None else charged + (math.fsum(parts) / len(parts) if parts else 0)
    total = None if charged is None else charged + (reference or 0.0)
    return {
        "policy": policy,
        "n": len(accuracies),
        **{f"n_{reason}": _count(group, reason) for reason in _REASONS},
        "mean": math.fsum(accuracies) / len(accuracies) if accuracies else None,
        "ci95": confidence_half_width(accuracies),
        "std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "worst": min(accuracies, default=None),
        "worst_class_accuracy": _mean(group, "worst_class_accuracy"),
        "test_loss": _mean(group, "test_loss"),
        "train_loss": _mean(group, "train_loss"),
        "mean_keep": _mean(group, "mean_keep"),
        "class_coverage": _mean(group, "class_coverage"),
        "seen": _mean(group, "seen"),
        "samples_trained": _mean(group, "samples_trained"),
        "steps": _mean(group, "steps"),
        "charged_flops": charged,
        "reference_flops": reference,
        "reference_shared_by": max(count for _, count in shares) if reference else None,
        "charged_flops_with_shared_reference": shared,
        "charged_flops_with_reference": total,
        "relative_compute": _ratio(charged, unit["charged_flops"]),
        "relative_compute_with_shared_reference": _ratio(shared, unit["charged_flops"]),
        "relative_compute_with_reference": _ratio(total, unit["charged_flops"]),
        "seconds": seconds,
        "relative_seconds": _ratio(seconds, unit["seconds"]),
        "reference_system_seconds": system,
        "relative_system_seconds": _ratio(system, unit["reference_system_seconds"]),
    }


def _count(group: Iterable[Run], status: str) -> int:
    return sum(1 for run in group if run.get("status") == status)


def _by_seed(group: Iterable[Run], key: str) -> dict[Any, float]:
    values: dict[Any, float] = {}
    for run in _finished(group):
        accuracy = _number(run, key)
        if run.get("seed") in values:
            raise ValueError(
                f"policy {run['policy']!r} has two finished runs of seed {run.get('seed')!r}; "
                "compare runs of one setting, one per seed"
            )
        if accuracy is not None:
            values[run.get("seed")] = accuracy
    return values


def _against(group: Iterable[Run], baseline: Iterable[Run] | None, key: str) -> dict[str, Any]:
    """Return the comparison with the baseline, paired by seed; all None for the baseline itself."""
    mine = _by_seed(group, key)
    theirs = _by_seed(baseline, key) if baseline is not None else {}
    differences = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    return {
        "n_pairs": len(differences),
        "difference": math.fsum(differences) / len(differences) if differences else None,
        "difference_ci95": confidence_half_width(differences),
        "effect_size": cohens_d(differences),
        "p_value": paired_t(differences),
        "sign_flip_p": sign_flip_p(differences),
    }
