from __future__ import annotations

import json

import pytest

from gstds.train.cli.main import build_parser, main
from gstds.train.comparing.sweep import Axis, grid, parse_axes, swept_keys
from gstds.train.figures.statistics import rank
from gstds.train.tracking.store import client
from gstds.train.tracking.ui import find_view
from gstds.train.tracking.uploader import sync
from tests.stores import stored


def test_axes_are_values_or_ranges():
    axes = parse_axes(["keep=.3,.5", "schedule=linear", "a=1..4", "b=.01..1:log", "c=2..2.5"])
    assert axes == [
        Axis("keep", (0.3, 0.5)),
        Axis("schedule", ("linear",)),
        Axis("a", (), 1, 4),
        Axis("b", (), 0.01, 1, log=True),
        Axis("c", (), 2, 2.5),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keep"], "KEY=V1"),
        (["keep="], "KEY=V1"),
        (["keep=.3", "keep=.5"], "twice"),
        (["keep=.3,.30"], "twice"),
        (["seed=0,1"], "--seeds"),
        (["keep=.5..0.3"], "lower to a higher"),
        (["keep=a..b"], "lower to a higher"),
        (["lr=0..1:log"], ":log"),
        (["lr=0.1..1:ln"], ":log"),
    ],
)
def test_axes_that_are_none_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_axes(words)


def test_grid_is_every_combination():
    points = grid(parse_axes(["keep=.3,.5", "score=abs,raw"]))
    assert [tuple(p.values()) for p in points] == [
        (0.3, "abs"), (0.3, "raw"), (0.5, "abs"), (0.5, "raw"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="is a range"):
        grid(parse_axes(["keep=.3..0.5"]))


def result(policy, seed, accuracy, status="finished"):
    return {
        "policy": policy, "seed": seed, "status": status, "val_accuracy": accuracy,
        "test_accuracy": 1 - (accuracy or 0), "charged_flops": 1.0, "full_flops": 2.0,
        "mean_keep": 0.5, "seconds": 1.0,
    }  # fmt: skip


def test_a_parameter_is_varied_for_the_policies_that_have_it():
    keys = ["keep", "score_share", "schedule.midpoint"]
    assert swept_keys(["random", "gstds@per=epoch"], keys) == {
        "random": ["keep", "schedule.midpoint"],
        "gstds@per=epoch": keys,
    }
    assert swept_keys(["random", "full"], ["scor"]) == {"random": ["scor"], "full": ["scor"]}


def test_ranking_goes_by_validation_and_puts_points_that_lost_a_run_last():
    runs = [result("a", 0, 0.7), result("b", 0, 0.8), result("a", 1, 0.8), result("b", 1, 0.9)]
    runs += [result("c", 0, 0.99), result("c", 1, None, "failed")]
    rows = rank(runs)
    assert [row["policy"] for row in rows] == ["b", "a", "c"]
    assert rows[0]["mean"] == pytest.approx(0.85)
    assert rows[2]["lost"] == 1
    assert rows[0]["relative_compute"] == 0.5


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(tiny_npz, *more):
    options = ["--dataset", tiny_npz, "--batch-size", "32", "--epochs", "2", "--learner", "mlp"]
    return ["compare", *options, "--quiet", "--seeds", "2", *more]


def test_a_sweep_never_looks_at_the_test_part(here, tiny_npz, capsys, store_uri):
    sweep = ["--policies", "random", "--sweep", "keep=.3,.6", "--tracking-uri", store_uri]
    command = words(tiny_npz, *sweep, "--out", "s", "--json", "s.json")
    assert main(command) == 0
    content = json.loads((here / "s.json").read_text(), parse_constant=pytest.fail)
    assert len(content["runs"]) == 4
    with_test = json.loads(plain_run(here, tiny_npz))["runs"][0]
    for run in content["runs"]:
        assert run["test_accuracy"] is run["test_loss"] is run["worst_class_accuracy"] is None
        assert 0 <= run["val_accuracy"] <= 1
        assert run["flops_by_phase"]["monitor"] < with_test["flops_by_phase"]["monitor"]
        assert run["val_accuracy"] == run["history"][-1]["val_accuracy"]
    # Two evaluations of selection-validation, not one operation more.
    seen = {run["flops_by_phase"]["monitor"] for run in content["runs"]}
    assert seen == {2 * evaluation_flops(here, tiny_npz)}
    best = content["ranking"][0]
    assert best["mean"] == max(row["mean"] for row in content["ranking"])
    assert (here / "s" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    pages = [(here / "s" / f"sweep.{suffix}").read_text() for suffix in ("md", "html")]
    assert all(row["policy"] in page for row in content["ranking"] for page in pages)
    record = stored(store_uri, here, content["runs"][0]).data
    assert record.params["policy.keep"] == str(record.metrics["param/policy.keep"])
    assert record.tags["sweep"] == "s"
    assert "final/test_accuracy" not in record.metrics
    assert record.metrics["final/val_accuracy"] == content["runs"][0]["val_accuracy"]
    experiment = client(store_uri).get_experiment_by_name("gstds").experiment_id
    sync(here / "s", store_uri)
    assert find_view(store_uri, experiment, "s")
    page, *_ = client(store_uri).search_runs([experiment], "tags.kind = 'sweep'")
    files = {file.path for file in client(store_uri).list_artifacts(page.info.run_id)}
    assert {"sweep.html", "sweep.png", "sweep.json"} <= files
    said = capsys.readouterr().out
    judge = content["judge_the_best"]
    assert judge in said
    parsed = build_parser().parse_args(judge.split()[1:])
    assert parsed.policies == [best["policy"], "random", "full"]
    assert parsed.first_seed == 2
    assert not hasattr(parsed, "test")


def plain_run(here, tiny_npz):
    options = ["--dataset", tiny_npz, "--batch-size", "32", "--epochs", "2", "--learner", "mlp"]
    more = ["--policy", "random", "--keep", "0.3", "--no-tracking", "--quiet", "--json", "p.json"]
    assert main(["run", *options, *more]) == 0
    return (here / "p.json").read_text()


def evaluation_flops(here, tiny_npz):
    """What one look at selection-validation costs, from the environment itself."""
    from gstds.train.running.options import RunConfig
    from gstds.train.running.setup import make_env, make_run_policy

    config = RunConfig(dataset=tiny_npz, batch_size=32, epochs=2, learner="mlp", policy="random")
    env = make_env(config, make_run_policy(config))
    env.reset(seed=0)
    env.monitor("selection_validation")
    return env.ledger.flops["monitor"]


def test_a_sweep_goes_on_where_it_was(here, tiny_npz):
    command = words(tiny_npz, "--policies", "random", "--no-tracking", "--out", "s")
    assert main([*command, "--sweep", "keep=.3", "--json", "a.json"]) == 0
    assert main([*command, "--sweep", "keep=.3,.6", "--json", "b.json"]) == 0
    first, both = (json.loads((here / name).read_text())["runs"] for name in ("a.json", "b.json"))
    again = [run for run in both if run["policy"] == "random@keep=0.3"]
    assert [run["wall_seconds"] for run in again] == [run["wall_seconds"] for run in first]
    assert len(both) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sweep", "keap=.3,.5"], "did you mean 'keep'"),
        (["--sweep", "keep=.05,.5"], "keep must be in"),
        (["--sweep-optuna", "3"], "--sweep"),
        (["--sweep", "keep=.2..0.5"], "is a range"),
    ],
)
def test_bad_sweeps_are_refused_before_any_work(here, tiny_npz, capsys, more, message):
    assert main(words(tiny_npz, "--no-tracking", "--out", "s", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "s").exists()


@pytest.mark.slow
def test_optuna_chooses_the_same_points_again(here, tiny_npz):
    command = words(tiny_npz, "--policies", "random", "--no-tracking", "--out", "s")
    command += ["--sweep", "keep=.2..0.8", "learning_rate=.001..1:log"]
    assert main([*command, "--sweep-optuna", "4", "--json", "a.json"]) == 0
    assert main([*command, "--sweep-optuna", "7", "--json", "b.json"]) == 0
    first, more = (json.loads((here / name).read_text())["runs"] for name in ("a.json", "b.json"))
    before = {(run["policy"], run["seed"], run["wall_seconds"]) for run in first}
    after = {(run["policy"], run["seed"], run["wall_seconds"]) for run in more}
    assert len(before) == 8
    assert len(after) == 14
    assert before < after
    assert all(run["test_accuracy"] is None for run in more)
