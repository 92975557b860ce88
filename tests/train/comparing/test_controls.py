"""The controls of real comparisons on a small data set."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest

from gstds.selection.schedules import make_schedule
from gstds.train.comparing.compare import Comparison, compare
from gstds.train.comparing.controls import follows
from gstds.train.launching.jobs import Watch
from gstds.train.running.kept import read_kept
from gstds.train.running.options import RunConfig

PLUG_INS = """
    from gstds.policies import KeepRatioPolicy

    class Waves(KeepRatioPolicy):
        def __init__(self): super().__init__(picker="uniform")
        def keep_ratio(self, observation):
            return 0.3 if int(10 * observation["progress"][0]) % 2 else 0.7

    class Same(Waves): pass

    class Scheduled(KeepRatioPolicy):
        def __init__(self, schedule=None): super().__init__(schedule, "uniform")
"""


@pytest.fixture
def run_comparison(tmp_path, tiny_npz, monkeypatch):
    (tmp_path / "steered.py").write_text(textwrap.dedent(PLUG_INS))
    monkeypatch.syspath_prepend(tmp_path)

    def run(*policies, baseline=None, controls=True, told=None, seeds=2, **options):
        base = RunConfig(**{"dataset": tiny_npz, "epochs": 4, "batch_size": 32, **options})
        comparison = Comparison(
            base=base, policies=policies, seeds=seeds, baseline=baseline or policies[0],
            name="test", folder=tmp_path / "c", tracking=None, experiment="gstds",
            controls=controls,
        )  # fmt: skip
        watch = Watch()
        if told is not None:
            watch.ended = lambda job, result, old: told.append(old)
        return compare(comparison, watch=watch)

    return run


def kept(tmp_path, run):
    name = run["policy"].replace(":", "-")
    return read_kept(
        tmp_path / "c" / "runs" / f"{name}-{run['seed']}-{run['identity']}" / "kept.npz"
    )


def named(content, policy):
    return [r for r in (*content["runs"], *content["controls"]) if r["policy"] == policy]


def test_a_control_keeps_what_its_policy_kept_and_costs_no_more(run_comparison, tmp_path):
    told = []
    content = run_comparison("random", "steered:Waves", told=told)
    assert {r["policy"] for r in content["runs"]} == {"random", "steered:Waves"}
    assert [r["policy"] for r in content["controls"]] == ["random:steered:Waves", "short-full"] * 2
    pairs = zip(
        named(content, "steered:Waves"), named(content, "random:steered:Waves"), strict=True
    )
    for mine, control in pairs:
        assert mine["seed"] == control["seed"]
        np.testing.assert_array_equal(kept(tmp_path, mine).counts, kept(tmp_path, control).counts)
        assert mine["charged_flops"] == control["charged_flops"]
    for random, short in zip(named(content, "random"), named(content, "short-full"), strict=True):
        sample = random["full_flops"] / (4 * len(kept(tmp_path, random).visits))
        assert 0 <= random["charged_flops"] - short["charged_flops"] < 2 * sample
        assert short["mean_keep"] == 1
        assert short["steps"] < random["steps"]
    rows = {(r["policy"], r["control"], r["same"]) for r in content["against_controls"]}
    assert rows == {
        ("steered:Waves", "random:steered:Waves", "keep sequence"),
        ("random", "short-full", "compute"),
        ("steered:Waves", "short-full", "compute"),
    }
    assert [r["policy"] for r in content["summary"]] == ["random", "steered:Waves"]
    assert {r["policy"] for r in content["controls_summary"]} == {
        "random:steered:Waves",
        "short-full",
    }
    json.dumps(content, allow_nan=False)

    assert told == [False] * 8
    told.clear()
    again = run_comparison("random", "steered:Waves", told=told)
    assert told == [True] * 8
    assert again["controls_summary"] == content["controls_summary"]


def test_by_share_of_the_budget_the_control_has_the_ratio_of_its_policy(run_comparison, tmp_path):
    content = run_comparison("steered:Waves", "full", setting="equal-budget", budget=0.6, seeds=1)
    (mine,), (control,) = named(content, "steered:Waves"), named(content, "random:steered:Waves")
    assert not named(content, "short-full")  # full is short under an equal budget
    ours, theirs = kept(tmp_path, mine), kept(tmp_path, control)
    for step in range(len(theirs.counts)):
        spent = 0.0 if step == 0 else theirs.progress[step - 1]
        then = int(np.searchsorted(np.float32(ours.progress), np.float32(spent), side="right"))
        expected = (ours.counts / ours.sizes)[min(then, len(ours.counts) - 1)]
        assert abs(theirs.counts[step] - expected * theirs.sizes[step]) <= 0.5
    assert ("steered:Waves", "full", "compute") in {
        (r["policy"], r["control"], r["same"]) for r in content["against_controls"]
    }


@pytest.mark.parametrize("setting", ["equal-epochs", "equal-budget"])
def test_on_the_schedule_random_is_the_control_and_is_run_once(run_comparison, setting):
    alone = run_comparison("steered:Scheduled", setting=setting, budget=0.6, seeds=1)
    assert [r["policy"] for r in alone["controls"]] == ["random", "short-full"]
    beside = run_comparison("steered:Scheduled", "random", setting=setting, budget=0.6, seeds=1)
    assert [r["policy"] for r in beside["controls"]] == ["short-full"]
    assert ("steered:Scheduled", "random") in {
        (r["policy"], r["control"]) for r in beside["against_controls"]
    }


def test_equal_sequences_share_a_control(run_comparison):
    content = run_comparison("steered:Waves", "steered:Same", "random", seeds=1)
    assert [r["policy"] for r in content["controls"]] == ["random:steered:Waves", "short-full"]
    pairs = {(r["policy"], r["control"]) for r in content["against_controls"]}
    assert {
        ("steered:Same", "random:steered:Waves"),
        ("steered:Waves", "random:steered:Waves"),
    } <= pairs


def test_controls_can_be_left_out(run_comparison):
    content = run_comparison("steered:Waves", controls=False, seeds=1)
    assert content["controls"] == content["controls_summary"] == []
    assert content["controls_planned"] == 0


def test_following_a_schedule_is_exact(run_comparison, tmp_path):
    content = run_comparison("random", seeds=1, controls=False)
    record = kept(tmp_path, content["runs"][0])
    assert follows(record, make_schedule("sigmoid"), "equal-epochs")
    assert not follows(record, make_schedule("sigmoid", keep=0.5), "equal-epochs")
    assert record.sizes.sum() == content["runs"][0]["samples_drawn"]
    assert record.counts.sum() == record.visits.sum()
