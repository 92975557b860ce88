from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gstds.train.figures.statistics import (
    confidence_half_width,
    equivalence_p,
    holm,
    paired_rows,
    paired_t,
    sign_flip_p,
    summarize,
    with_holm,
)
from gstds.train.figures.tables import comparison_table


def run(policy, seed, accuracy, **fields):
    charged = {"full": 4e12, "random": 2e12, "gstds": 2e12}.get(policy, 1e12)
    return {
        "policy": policy, "seed": seed, "status": "finished", "test_accuracy": accuracy,
        "mean_keep": 0.5, "charged_flops": charged, "full_flops": 4e12, "seconds": charged / 1e11,
        "reference_flops": 3e12 if policy == "gstds" else 0.0, **fields,
    }  # fmt: skip


GSTDS, RANDOM, FULL = (0.81, 0.83, 0.825), (0.84, 0.835, 0.85), (0.86, 0.87, 0.855)
RUNS = [
    run(policy, seed, accuracy)
    for policy, values in (("gstds", GSTDS), ("random", RANDOM), ("full", FULL))
    for seed, accuracy in enumerate(values)
]


def by_policy(rows):
    return {row["policy"]: row for row in rows}


def test_means_and_tests_agree_with_scipy():
    rows = by_policy(summarize(RUNS, "random"))
    row = rows["gstds"]
    test = stats.ttest_rel(GSTDS, RANDOM)
    interval = test.confidence_interval(0.95)
    assert row["mean"] == pytest.approx(np.mean(GSTDS))
    low, high = stats.t.interval(0.95, 2, np.mean(GSTDS), stats.sem(GSTDS))
    assert row["ci95"] == pytest.approx((high - low) / 2)
    assert row["p_value"] == pytest.approx(test.pvalue)
    assert row["difference"] == pytest.approx(np.mean(GSTDS) - np.mean(RANDOM))
    assert row["difference_ci95"] == pytest.approx((interval.high - interval.low) / 2)
    assert row["worst"] == 0.81
    assert rows["random"]["p_value"] is None
    assert rows["random"]["difference"] is None


def test_pairs_by_seed_whatever_the_order():
    shuffled = [RUNS[i] for i in (2, 0, 1, 4, 5, 3, 8, 7, 6)]
    rows, again = by_policy(summarize(RUNS, "random")), by_policy(summarize(shuffled, "random"))
    assert again["gstds"]["p_value"] == pytest.approx(rows["gstds"]["p_value"])


def test_compute_is_relative_to_full_and_the_reference_is_apart():
    row = by_policy(summarize(RUNS, "random"))["gstds"]
    assert row["relative_compute"] == 0.5
    assert row["charged_flops_with_shared_reference"] == pytest.approx(3e12)  # shared by 3 runs
    assert row["charged_flops_with_reference"] == pytest.approx(5e12)
    assert row["relative_compute_with_reference"] == pytest.approx(1.25)
    assert row["relative_seconds"] == 0.5


def test_a_reference_is_shared_by_those_that_use_it_and_no_others():
    other = [
        run | {"policy": "mine", "reference_flops": 9e12}
        for run in RUNS
        if run["policy"] == "gstds"
    ]
    rows = by_policy(summarize([*RUNS, *other[:2]], "random"))
    assert rows["gstds"]["charged_flops_with_shared_reference"] == pytest.approx(3e12)
    assert rows["mine"]["charged_flops_with_shared_reference"] == pytest.approx(2e12 + 9e12 / 2)
    assert (rows["gstds"]["reference_shared_by"], rows["mine"]["reference_shared_by"]) == (3, 2)
    told = by_policy(summarize(RUNS, "random", reference_shared_by=6))["gstds"]
    assert told["charged_flops_with_shared_reference"] == pytest.approx(2.5e12)


def test_runs_that_left_the_test_part_alone_are_judged_on_selection_validation():
    untested = [
        run | {"test_accuracy": None, "val_accuracy": run["test_accuracy"] - 0.1} for run in RUNS
    ]
    row, tested = (by_policy(summarize(r, "random"))["gstds"] for r in (untested, RUNS))
    assert (row["judged_on"], tested["judged_on"]) == ("selection-validation", "test")
    assert row["mean"] == pytest.approx(tested["mean"] - 0.1)
    assert row["difference"] == pytest.approx(tested["difference"])
    (pair,) = paired_rows(untested, [("gstds", "random", "compute")])
    assert pair["difference"] == pytest.approx(row["difference"])
    mixed = by_policy(summarize([*untested[:3], *RUNS[3:]], "random"))
    assert mixed["gstds"]["mean"] is None  # the two are never mixed


def test_without_full_compute_comes_from_the_formula_and_seconds_from_nothing():
    row = by_policy(summarize(RUNS[:6], "random"))["gstds"]
    assert row["relative_compute"] == 0.5
    assert row["relative_seconds"] is None


def test_one_seed_has_no_interval_and_no_p():
    rows = summarize(RUNS[::3], "random")
    for row in rows:
        assert row["n"] == 1
        assert row["ci95"] is row["p_value"] is row["sign_flip_p"] is row["p_holm"] is None
    json.dumps(rows, allow_nan=False)


def test_a_lost_run_is_counted_and_not_averaged():
    lost = run("gstds", 3, None, status="diverged")
    rows = by_policy(summarize([*RUNS, lost, run("mine", 0, None, status="failed")], "random"))
    assert rows["gstds"]["n"] == 3
    assert rows["gstds"]["n_diverged"] == 1
    assert rows["gstds"]["mean"] == pytest.approx(np.mean(GSTDS))
    assert rows["mine"]["n"] == 0
    assert rows["mine"]["mean"] is None
    assert rows["mine"]["n_failed"] == 1
    json.dumps(list(rows.values()), allow_nan=False)


def test_nan_never_comes_out():
    bad = run("gstds", 3, math.nan, test_loss=math.inf, seconds=math.nan)
    json.dumps(summarize([*RUNS, bad], "random"), allow_nan=False)


def test_refuses_an_absent_baseline_and_a_seed_twice():
    with pytest.raises(ValueError, match="'nobody' is not among"):
        summarize(RUNS, "nobody")
    with pytest.raises(ValueError, match="two finished runs of seed 0"):
        summarize([*RUNS, RUNS[0]], "random")


def brute_force(differences):
    observed = abs(sum(differences))
    tolerance = 1e-9 * sum(map(abs, differences))
    flips = list(itertools.product((1, -1), repeat=len(differences)))
    sums = [abs(sum(s * d for s, d in zip(f, differences, strict=True))) for f in flips]
    return sum(s >= observed - tolerance for s in sums) / len(flips)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=9))
@settings(max_examples=150, deadline=None)
def test_sign_flip_equals_brute_force(whole):
    differences = [w / 1797 for w in whole]
    assert sign_flip_p(differences) == pytest.approx(brute_force(differences), abs=1e-12)


def test_sign_flip_equals_scipy_and_its_floor():
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1, 11)
    ours = sign_flip_p(values)
    theirs = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert sign_flip_p([0.1] * 5) == 0.0625
    assert sign_flip_p([0.1]) is None


def test_t_test_by_its_formula():
    values = np.random.default_rng(1).normal(0.3, 1, 7)
    t = values.mean() / (values.std(ddof=1) / math.sqrt(7))
    assert paired_t(list(values)) == pytest.approx(2 * stats.t.sf(abs(t), 6), abs=1e-12)


def test_t_test_of_equal_differences():
    assert paired_t([0.0, 0.0, 0.0]) == 1.0
    assert paired_t([0.8 - 0.7, 0.6 - 0.5, 0.4 - 0.3]) is None
    assert paired_t([0.1]) is None
    assert confidence_half_width([0.5]) is None


def test_holm_by_hand():
    # Sorted: .01·4 = .04, .02·3 = .06, .03·2 = .06, .5·1 = .5; steps never fall.
    adjusted = holm({"a": 0.02, "b": 0.01, "c": 0.5, "d": 0.03, "base": None})
    assert adjusted == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.5, "d": 0.06, "base": None})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_effect_size_is_the_mean_difference_in_sample_deviations() -> None:
    from gstds.train.figures.statistics import cohens_d

    assert cohens_d([1.0, 2.0, 3.0]) == pytest.approx(2.0)
    assert cohens_d([-1.0, -2.0, -3.0]) == pytest.approx(-2.0)
    assert cohens_d([0.0, 0.0]) == 0.0
    assert cohens_d([0.5, 0.5]) is None
    assert cohens_d([0.5]) is None


def test_a_tables_p_values_are_adjusted_over_its_rows():
    rows = [{"policy": n, "p_value": p} for n, p in (("a", 0.04), ("b", None), ("c", 0.01))]
    assert [row["p_holm"] for row in with_holm(rows)] == [0.04, None, 0.02]


# level, by a margin


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    differences = np.random.default_rng(0).normal(0.001, 0.002, 12)
    t = stats.t(11)
    error = differences.std(ddof=1) / np.sqrt(12)
    above = t.sf((differences.mean() + 0.003) / error)
    below = t.cdf((differences.mean() - 0.003) / error)
    assert equivalence_p(differences, 0.003) == pytest.approx(max(above, below))
    # The usual way of putting it: the 90% interval lies within the margin at p < .05.
    half = t.ppf(0.95) * error
    inside = abs(differences.mean()) + half < 0.003
    assert (equivalence_p(differences, 0.003) < 0.05) == inside
    assert equivalence_p([0.001] * 10, 0.003) == 0.0
    assert equivalence_p([0.004] * 10, 0.003) == 1.0


def ten(policy, shift, spread, count=10):
    base = 0.8 + np.linspace(-0.01, 0.01, count)
    noise = spread * np.array([1, -1] * (count // 2))
    return [
        {"policy": policy, "seed": i, "test_accuracy": float(a), "status": "finished"}
        for i, a in enumerate(base + shift + noise)
    ]


@pytest.mark.parametrize(
    ("shift", "spread", "count", "finding"),
    [
        (0.0, 0.001, 10, "level (±.3)"),
        (0.001, 0.0005, 10, "level (±.3)"),  # a difference, but one within the margin
        (0.02, 0.001, 10, "a difference"),
        (0.0, 0.02, 10, "no difference shown"),
        (0.0, 0.001, 8, None),
        (0.2, 0.001, 8, None),
    ],
)
def test_a_finding_needs_ten_runs_and_level_is_one(shift, spread, count, finding):
    runs = ten("a", 0, 0, count) + ten("b", shift, spread, count)
    row = summarize(runs, "a", margin=0.003)[1]
    assert row.get("finding") == finding
    table = comparison_table([row])
    assert (finding is None) == ("finding" not in table.header)
    (pair,) = with_holm(paired_rows(runs, [("b", "a", "compute")], 0.003))
    assert pair.get("finding") == finding


def test_level_is_holms_over_its_table():
    runs = ten("a", 0, 0)
    runs += [run for i in range(6) for run in ten(f"b{i}", 0.0015, 0.0018)]
    one = summarize(runs[:20], "a", margin=0.003)[1]
    assert one["equivalence_p"] < 0.05
    assert one["finding"] == "level (±.3)"
    every = summarize(runs, "a", margin=0.003)[1:]
    assert {row["finding"] for row in every} == {"no difference shown"}


def test_each_split_has_a_reference_of_its_own():
    runs = [
        {"policy": "a", "seed": seed, "status": "finished", "test_accuracy": 0.5}
        | {"reference_flops": 10.0, "reference_accuracy": 0.7, "charged_flops": 1.0}
        for seed in range(4)
    ]
    shared = summarize(runs, "a")[0]
    own = summarize(runs, "a", own_splits=True)[0]
    assert (shared["reference_shared_by"], own["reference_shared_by"]) == (4, 1)
    assert own["charged_flops_with_shared_reference"] == 11.0
