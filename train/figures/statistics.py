"""Statistics of a comparison: means, intervals, paired tests against the baseline.

Seeds are paired: every policy meets the same order, augmentation and initialization under the same
seed, so the test runs on the differences. Beside the t test stands the exact sign-flip test, which
assumes nothing but symmetry; with n seeds its p cannot go below 2 / 2^n (5 seeds: .0625).
"""

# Own, where scipy has no better: `permutation_test` lists all 2^n flips, which ends at some twenty
# seeds, and tells sums apart that are equal but for rounding. Means are exact sums (`fsum`), the
# same in any order of the runs, which pandas' are not; Holm's adjustment is not in scipy.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.train.figures.tables import FEWEST_RUNS, metrics

Run = Mapping[str, Any]
Runs = Sequence[Run]
Rows = list[dict[str, Any]]
Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]

FEWEST_FOR_A_BAND = 5
SIGNIFICANT = 0.05
MARGIN = 0.003
"""Difference in accuracy within which two policies are level, unless told."""
_MOST_FLIPS = 40
_SHARED = "charged_flops_with_shared_reference"
_CLOCKS = ("seconds", "reference_system_seconds")
_REASONS = ("failed", "diverged", "interrupted")
_RELATIVE = {
    "relative_compute": ("charged_flops", "charged_flops"),
    "relative_compute_with_shared_reference": (_SHARED, "charged_flops"),
    "relative_compute_with_reference": ("charged_flops_with_reference", "charged_flops"),
    "relative_seconds": ("seconds", "seconds"),
    "relative_system_seconds": ("reference_system_seconds", "reference_system_seconds"),
}


def summarize(
    runs: Runs,
    baseline: str,
    *,
    reference_shared_by: int | None = None,
    timed: bool = True,
    margin: float = MARGIN,
    own_splits: bool = False,
) -> Rows:
    """Summarize runs by policy, in the order in which the policies first appear.

    The unit of the relative columns is the policy ``full``; without it compute is by formula, and
    seconds have none.

    Means are over finished runs; ``n`` counts these, and the others are counted beside them.
    Nothing is NaN: what cannot be computed is None, such as an interval from one seed, or a t test
    on differences that are all the same.

    Args:
        runs: Results of runs, as in the JSON file. Accuracies are those of the test part; where no
            run has met it (``--no-test``), those of selection-validation.
        baseline: The policy that the others are tested against.
        reference_shared_by: How many runs share one reference; default all that use it. References
            of one cost and one accuracy are one.
        timed: Whether their seconds may be compared; otherwise there are none.
        margin: Difference in accuracy within which two policies are level.
        own_splits: Whether each seed has a split of the data, and so a reference's probe, of its
            own.

    Returns:
        One JSON-able dictionary per policy.

    Raises:
        ValueError: If no run is of the baseline policy, or a policy has two finished runs of one
            seed.
    """
    splits = {"splits": "per-seed"} if own_splits else {}
    runs = [{**run, **splits} for run in runs]
    groups = by_policy(runs)
    if runs and baseline not in groups:
        found = ", ".join(groups)
        raise ValueError(f"baseline {baseline!r} is not among the compared policies: {found}")
    users = Counter(map(_reference, runs))
    shared_by = dict.fromkeys(users, reference_shared_by) if reference_shared_by else users
    unit = {key: mean(groups.get("full", ()), key) for _, key in _RELATIVE.values()}
    unit["charged_flops"] = unit["charged_flops"] or mean(runs, "full_flops")
    part, key = _judged_on(runs)
    rows = []
    for name, group in groups.items():
        row = {"policy": name} | _row(group, key, shared_by)
        row |= {} if timed else dict.fromkeys(_CLOCKS)
        row |= {k: _ratio(row[of], unit[by]) for k, (of, by) in _RELATIVE.items()}
        row |= _against(group, () if name == baseline else groups[baseline], key, margin)
        rows.append(row | {"judged_on": part, "baseline": baseline} | splits)
    return with_holm(rows)


def summarize_controls(runs: Runs, controls: Runs, baseline: str, **how: Any) -> Rows:
    """Summarize control runs by name, tested against the baseline of the runs beside them.

    Args:
        runs: The comparison's runs.
        controls: Its control runs.
        baseline: The runs' baseline.
        **how: As for `summarize`.

    Raises:
        ValueError: If no run is of the baseline policy.
    """
    names = {str(run["policy"]) for run in controls}
    rows = summarize([*runs, *controls], baseline, **how) if controls else []
    return [row for row in rows if row["policy"] in names]


def paired_rows(runs: Runs, pairs: Iterable[tuple[str, str, str]], margin: float = MARGIN) -> Rows:
    """Test policies against other policies than the baseline, paired by seed.

    Args:
        runs: Results of runs and controls.
        pairs: (policy, the control that it is tested against, what both have in common).
        margin: Difference in accuracy within which two are level.

    Returns:
        One JSON-able dictionary for each pair of which runs are there.

    Raises:
        ValueError: If a policy has two finished runs of one seed.
    """
    groups, (_, key) = by_policy(runs), _judged_on(runs)
    rows = []
    for policy, control, common in pairs:
        if policy in groups and control in groups and policy != control:
            mine, theirs = groups[policy], groups[control]
            ratio = _ratio(mean(mine, "charged_flops"), mean(theirs, "charged_flops"))
            row = {"policy": policy, "control": control, "same": common, "compute_ratio": ratio}
            rows.append(row | _against(mine, theirs, key, margin))
    return rows


def rank(results: Runs) -> Rows:
    """Return the points, the best mean accuracy on selection-validation first.

    Args:
        results: Results of runs.

    Returns:
        Rows of ``policy`` (the point's name), ``n``, ``lost`` (runs that did not finish), ``mean``,
        ``ci95``, ``mean_keep``, ``relative_compute`` and ``seconds``. Points that lost a run come
        after all others.
    """
    rows = []
    for name, group in by_policy(results).items():
        scores = numbers(group, "val_accuracy")
        shares = [{"share": r["charged_flops"] / r["full_flops"]} for r in finished(group)]
        row = {"policy": name, "n": len(scores), "lost": len(group) - len(scores)}
        row |= {"mean": mean(group, "val_accuracy"), "ci95": confidence_half_width(scores)}
        row |= {name: mean(group, name) for name in ("mean_keep", "seconds")}
        rows.append(row | {"relative_compute": mean(shares, "share")})
    return sorted(rows, key=lambda row: (row["lost"] > 0, -(row["mean"] or 0.0)))


def confidence_half_width(values: Sequence[float] | Floats) -> Any:
    """Return the half-width of the 95% t interval of the mean over the first axis.

    Args:
        values: One value, or one curve, per seed (n, ...).

    Returns:
        A number, or an array (...); None for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return None
    from scipy import stats

    quantile = float(stats.t.ppf(0.975, count - 1))
    half = quantile * np.std(values, axis=0, ddof=1) / math.sqrt(count)
    return half if np.ndim(half) else float(half)


def paired_t(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of a paired t test.

    Args:
        differences: One difference per seed (n,).

    Returns:
        The p value; 1 if all differences are 0; None for fewer than two, or if all are the same
        but not 0, where t has no finite value.
    """
    size = cohens_d(differences)
    if not size:
        return None if size is None else 1.0 - size
    from scipy import stats

    return float(stats.ttest_rel(differences, np.zeros(len(differences))).pvalue)


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """Return the p of TOST: the larger of two one-sided t tests against -margin and margin.

    Source: Schuirmann 1987, J. Pharmacokin. Biopharm. 15:657.

    Args:
        differences: One difference per seed (n,), two at least.
        margin: The margin, above 0.

    Returns:
        The p value of "the mean difference is at least the margin, up or down"; 0 or 1 for
        differences that are all the same.
    """
    from scipy import stats

    if np.ptp(differences) <= 1e-12 * abs(differences[0]):
        return float(abs(differences[0]) >= margin)
    sides = ((-margin, "greater"), (margin, "less"))
    return max(float(stats.ttest_1samp(differences, end, alternative=a).pvalue) for end, a in sides)


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
    average, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if not np.any(differences):
        return 0.0
    return None if deviation <= 1e-12 * abs(average) else average / deviation


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


def _flip_sums(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return Holm's adjusted p values (Holm 1979); None stays None and is not counted."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    steps = (min(1.0, (len(known) - rank) * p) for rank, (p, _) in enumerate(known))
    adjusted = zip((name for _, name in known), accumulate(steps, max), strict=True)
    return {**dict.fromkeys(p_values), **dict(adjusted)}


def with_holm(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Return rows with ``p_holm``: their ``p_value`` adjusted over all of them.

    And with a ``finding`` by it, and by the ``equivalence_p`` adjusted likewise, where enough runs
    stand behind them to tell: level comes before a difference, which may be one within the margin.
    """
    several = [
        holm({str(i): row.get(name) for i, row in enumerate(rows)})
        for name in ("p_value", "equivalence_p")
    ]
    adjusted = zip(rows, *(one.values() for one in several), strict=True)
    return [{**row, "p_holm": p, **_finding(row, p, level)} for row, p, level in adjusted]


def _finding(row: Mapping[str, Any], p: float | None, level: float | None) -> dict[str, str]:
    if level is None:
        return {}
    if level < SIGNIFICANT:
        margin = f"{100 * row['margin']:g}".removeprefix("0")
        return {"finding": f"level (±{margin})"}
    shown = p is None or p < SIGNIFICANT
    return {"finding": "a difference" if shown else "no difference shown"}


def by_policy(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return runs by policy, in the order in which the policies first appear."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run["policy"]), []).append(run)
    return groups


def finished(group: Iterable[Run]) -> list[Run]:
    """Return the runs that came to their end."""
    return [run for run in group if run.get("status", "finished") == "finished"]


def numbers(group: Iterable[Run], key: str) -> list[float]:
    """Return the finite values of finished runs."""
    return [v for v in (_number(run, key) for run in finished(group)) if v is not None]


def mean(group: Iterable[Run], key: str) -> float | None:
    """Return the mean over finished runs; None without a value."""
    return _average(numbers(group, key))


def _average(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _number(run: Run, key: str) -> float | None:
    value = run.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _judged_on(runs: Iterable[Run]) -> tuple[str, str]:
    """Return the part of the data that accuracies are of, and their key in a run's result."""
    tested = not finished(runs) or numbers(runs, "test_accuracy")
    return ("test", "test_accuracy") if tested else ("selection-validation", "val_accuracy")


def _reference(run: Run) -> tuple[Any, ...]:
    """Return what tells the reference of a run from those of others."""
    split = run["seed"] if run.get("splits") else None
    return _number(run, "reference_flops"), _number(run, "reference_accuracy"), split


def _row(group: list[Run], key: str, shared_by: Mapping[Any, int]) -> dict[str, Any]:
    accuracies = numbers(group, key)
    means = {metric.key: mean(group, metric.key) for metric in metrics() if metric.mean}
    charged, reference = means["charged_flops"], means["reference_flops"] or 0.0
    users = [(_reference(run)[0], shared_by[_reference(run)]) for run in finished(group)]
    shared = _average([flops / count for flops, count in users if flops is not None]) or 0.0
    lost = {f"n_{r}": sum(run.get("status") == r for run in group) for r in _REASONS}
    row = {"n": len(accuracies), **lost, "mean": _average(accuracies)}
    row["ci95"] = confidence_half_width(accuracies)
    row["std"] = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
    row |= {"worst": min(accuracies, default=None), **means}
    row["reference_shared_by"] = max(count for _, count in users) if reference else None
    row[_SHARED] = None if charged is None else charged + shared
    row["charged_flops_with_reference"] = None if charged is None else charged + reference
    return row


def _by_seed(group: Iterable[Run], key: str) -> dict[Any, float]:
    values: dict[Any, float] = {}
    for run in finished(group):
        accuracy = _number(run, key)
        if run.get("seed") in values:
            what = f"two finished runs of seed {run.get('seed')!r}"
            mend = "compare runs of one setting, one per seed"
            raise ValueError(f"policy {run['policy']!r} has {what}; {mend}")
        if accuracy is not None:
            values[run.get("seed")] = accuracy
    return values


def _against(
    group: Iterable[Run], baseline: Iterable[Run], key: str, margin: float
) -> dict[str, Any]:
    """Return the comparison with the baseline, paired by seed; all None for the baseline itself.

    Whether both are level is asked of as many pairs as something may be claimed of.
    """
    mine, theirs = _by_seed(group, key), _by_seed(baseline, key)
    pairs = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    row = {"n_pairs": len(pairs), "difference": _average(pairs)}
    row |= {"difference_ci95": confidence_half_width(pairs), "effect_size": cohens_d(pairs)}
    row |= {"p_value": paired_t(pairs), "sign_flip_p": sign_flip_p(pairs)}
    if len(pairs) < FEWEST_RUNS:
        return row
    return row | {"margin": margin, "equivalence_p": equivalence_p(pairs, margin)}


# ---------------------------------------------------------------------------- curves over seeds


@dataclass(frozen=True)
class Band:
    """The mean of curves where all have values.

    Attributes:
        x: Common abscissa (G,).
        mean: Mean ordinate (G,).
        half_width: Half the 95% t interval of the mean (G,); None for fewer than three curves,
            whose intervals would fill the page.
    """

    x: Floats
    mean: Floats
    half_width: Floats | None


def curves(runs: Iterable[Run], x: str, y: str) -> list[Curve]:
    """Return (x, y) of each run whose history has both somewhere, in order of x."""
    found = []
    for run in runs:
        pairs = [(row.get(x), row.get(y)) for row in run.get("history", ())]
        rows = sorted(pair for pair in pairs if None not in pair and np.isfinite(pair).all())
        if rows:
            points = np.array(rows, dtype=np.float64)
            found.append((points[:, 0], points[:, 1]))
    return found


def mean_band(several: Sequence[Curve]) -> Band | None:
    """Return the mean of curves on the points of all, and its interval; None without curves."""
    if not several:
        return None
    low, high = max(x[0] for x, _ in several), min(x[-1] for x, _ in several)
    every = np.unique(np.concatenate([x for x, _ in several]))
    grid = every[(every >= low) & (every <= high)]
    values = np.stack([np.interp(grid, x, y) for x, y in several])
    half = confidence_half_width(values) if len(several) >= FEWEST_FOR_A_BAND else None
    return Band(grid, values.mean(axis=0), half)


def cost_to_accuracy(curve: Curve, target: float) -> float | None:
    """Return the cost at which accuracy first reaches a target, None if it never does.

    Between two evaluations the crossing is interpolated; what lies before the first is not known,
    so the first evaluation's cost stands for it.

    Args:
        curve: Cost and accuracy at each evaluation (E,), by rising cost.
        target: The accuracy.
    """
    cost, accuracy = curve
    above = np.flatnonzero(accuracy >= target)
    if not len(above):
        return None
    near = slice(max(0, above[0] - 1), above[0] + 1)
    return float(np.interp(target, accuracy[near], cost[near]))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points that no other beats, by rising cost.

    A point is beaten by one that costs no more and is no less accurate, and better in one of both.

    Args:
        points: (cost, accuracy) of each.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        last = points[front[-1]] if front else None
        if last is None or points[i][1] > last[1] or points[i] == last:
            front.append(i)
    return front
