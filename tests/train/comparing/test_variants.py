from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gstds.train.comparing.compare import Comparison, compare, plan
from gstds.train.comparing.comparison import (
    comparison_from,
    split_name,
    variant_config,
    variant_name,
)
from gstds.train.running.options import RunConfig
from tests.stores import stored

BASE = RunConfig(schedule_params={"steepness": 20.0}, policy_params={"per": "epoch"})


def test_keys_are_options_parameters_of_the_schedule_or_of_the_policy():
    config = variant_config(BASE, "gstds@keep=.4,schedule.midpoint=.5,score-share=1,batch_size=64")
    assert (config.policy, config.keep, config.batch_size) == ("gstds", 0.4, 64)
    assert config.schedule_params == {"steepness": 20.0, "midpoint": 0.5}
    assert config.policy_params == {"per": "epoch", "score_share": 1}


def test_another_schedule_leaves_the_parameters_of_the_first():
    assert variant_config(BASE, "gstds@schedule=linear").schedule_params == {}
    assert variant_config(BASE, "gstds@schedule=sigmoid").schedule_params == {"steepness": 20.0}


@pytest.mark.parametrize(
    "values", [{}, {"keep": 0.4137}, {"score": "raw", "schedule.midpoint": 1e-05, "test": False}]
)
def test_a_name_holds_everything(values):
    assert split_name(variant_name("my_file:Mine", values)) == ("my_file:Mine", values)


def test_an_at_sign_in_a_path_is_no_variant():
    assert split_name("learned:runs/a@b/agent") == ("learned:runs/a@b/agent", {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gstds@keep", None),
        ("gstds@keep=", "KEY=VALUE"),
        ("gstds@keep=.4,keep=.5", "twice"),
        ("gstds@scores_share=1", "did you mean 'score_share'"),
        ("gstds@keep=1.4", r"keep must be in \(0, 1\]"),
        ("gtsds@keep=.4", "did you mean 'gstds'"),
        (
            "infobatch@keep=.5",
            "follows no schedule, got 0.5; leave it out; it is set by infobatch@",
        ),
        ("full@schedule=linear", "follows no schedule"),
    ],
)
def test_bad_names_are_refused(name, message):
    if message is None:
        assert split_name(name) == (name, {})
        return
    with pytest.raises(ValueError, match=message):
        plan_of(name)


def plan_of(*rows, **options):
    return plan(
        Comparison(
            base=RunConfig(), policies=rows, seeds=2, baseline=rows[0], name="c",
            folder=Path("none"), tracking=None, experiment="gstds", **options,
        )
    )  # fmt: skip


def test_rows_of_one_policy_have_folders_and_labels_of_their_own():
    jobs = plan_of("random", "random@keep=.4", "random@keep=.5", first_seed=7)
    assert [job.config.seed for job in jobs] == [7, 7, 7, 8, 8, 8]
    assert len({job.folder for job in jobs}) == 6
    assert jobs[1].tags["policy"] == "random@keep=.4"


def test_one_run_under_two_names_is_refused():
    with pytest.raises(ValueError, match="are the same run"):
        plan_of("gstds", "gstds@schedule=sigmoid")


def test_paper_defaults_leave_a_row_its_own_options():
    (job, *_) = plan_of("jest@keep=.3", paper_defaults=True)
    assert job.config.keep == 0.3
    assert job.config.schedule == plan_of("jest", paper_defaults=True)[0].config.schedule


def test_a_comparison_of_variants_is_told_apart_everywhere(tmp_path, tiny_npz, store_uri):
    rows = ("random", "random@schedule=constant,keep=.5")
    comparison = Comparison(
        base=RunConfig(dataset=tiny_npz, batch_size=32, epochs=1, learner="mlp"),
        policies=rows, seeds=1, baseline="random", name="c", folder=tmp_path / "c",
        tracking=store_uri, experiment="gstds", no_model=True,
    )  # fmt: skip
    content = compare(comparison)
    assert [run["policy"] for run in content["runs"]] == list(rows)
    assert [row["policy"] for row in content["summary"]] == list(rows)
    assert content["runs"][1]["mean_keep"] == pytest.approx(0.5, abs=0.02)
    again = compare(comparison)
    assert [run["policy"] for run in again["runs"]] == list(rows)
    assert [r["run_id"] for r in again["runs"]] == [r["run_id"] for r in content["runs"]]
    run = stored(store_uri, tmp_path, content["runs"][1])
    assert run.data.tags["policy"] == rows[1]
    assert run.data.params["policy.policy"] == "random"
    assert json.loads(run.data.params["policy.schedule_params"]) == {}


def test_trust_adds_the_filters_own_controls_beside_any_claim(tmp_path):
    def rows(*policies, **more):
        return comparison_from({"policies": policies, **more}, tmp_path)

    beside = ("random@trust=reference", "full@trust=reference")
    made = rows("jest", "random", "full", trust="reference")
    assert made.policies == ("jest@trust=reference", "random", "full", *beside)
    assert replace(made, seeds=1).policies == made.policies
    assert rows("jest", "random", trust="reference", baseline="jest").baseline == made.policies[0]
    assert rows("jest@trust=reference", beside[0]).policies == ("jest@trust=reference", *beside)
    assert rows("jest@trust=none", "random", trust="agreement").policies[:2] == (
        "jest@trust=none", "random",
    )  # fmt: skip
    assert rows("jest", trust="reference", controls=False).policies == ("jest@trust=reference",)
    jobs = {job.label: job.config for job in plan(made)}
    assert jobs["random@trust=reference"].policy_params == {"trust": "reference"}
    with pytest.raises(ValueError, match="trust"):
        plan(rows("random@trust=refrence"))
    with pytest.raises(ValueError, match="once each"):
        plan(rows("random", "random", trust="reference"))


@pytest.mark.slow
def test_the_filter_is_set_beside_random_samples_that_are_filtered(tmp_path, tiny_npz):
    base = {"dataset": tiny_npz, "batch_size": 32, "epochs": 1, "learner": "mlp", "seeds": 1}
    base |= {"reference": "untrained", "label_noise": 0.2}
    given = {"policies": ("stale-big-loss",), "trust": "agreement", **base}
    content = compare(comparison_from(given, tmp_path))
    found = {(row["policy"], row["control"]) for row in content["against_controls"]}
    ours = "stale-big-loss@trust=agreement"
    keeps = {control for policy, control in found if policy == ours}
    assert keeps <= {"random@trust=agreement", f"random:{ours}", "short-full"}
    assert len(keeps) == 2
