from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

from gstds.common.state import latest_state
from gstds.envs import EnvOptions
from gstds.options.fields import names
from gstds.train.comparing.compare import Comparison, compare
from gstds.train.launching.jobs import Watch
from gstds.train.running.kept import coverage
from gstds.train.running.options import RunConfig, config_from, identity
from gstds.train.running.run import RunFailedError, execute
from gstds.train.tracking.log import LOG_NAME, read_log
from tests.stops import StopAfter


def config(tiny_npz, **options):
    return config_from(
        {"dataset": tiny_npz, "policy": "random", "epochs": 3, "batch_size": 32} | options
    )


def same(result):
    clocks = ("seconds", "wall_seconds", "seconds_by_phase", "reference_system_seconds")
    timed = (*clocks, "history", "run_id")
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result["history"]]
    return {k: v for k, v in result.items() if k not in timed}, rows


def test_the_same_seed_gives_the_same_result_and_another_does_not(tiny_npz, tmp_path):
    first = execute(config(tiny_npz), tmp_path / "a")
    assert same(first) == same(execute(config(tiny_npz), tmp_path / "b"))
    other = execute(config(tiny_npz, seed=1), tmp_path / "c")
    assert other["weights_sha256"] != first["weights_sha256"]
    assert first["status"] == "finished"
    assert first["test_accuracy"] > 0.5
    json.dumps(first, allow_nan=False)


@pytest.mark.parametrize("setting", ["equal-epochs", "equal-budget"])
def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(tiny_npz, tmp_path, setting):
    options = config(tiny_npz, setting=setting, budget=0.8)
    whole = execute(options, tmp_path / "whole", checkpoint_every=2)
    part = execute(options, tmp_path / "part", stop=StopAfter(9), checkpoint_every=2)
    assert part["status"] == "interrupted"
    assert part["steps"] < whole["steps"]
    resumed = execute(options, tmp_path / "part", resume=True, checkpoint_every=2)
    assert same(resumed) == same(whole)
    kept = [np.load(tmp_path / name / "kept.npz")["kept"] for name in ("whole", "part")]
    np.testing.assert_array_equal(*kept)


def test_resuming_a_finished_run_returns_its_result_without_training(tiny_npz, tmp_path):
    first = execute(config(tiny_npz), tmp_path)
    assert execute(config(tiny_npz), tmp_path, resume=True) == first


def test_resuming_without_a_checkpoint_starts_over(tiny_npz, tmp_path):
    whole = execute(config(tiny_npz), tmp_path / "a")
    execute(config(tiny_npz), tmp_path / "b", stop=StopAfter(2), checkpoint_every=0)
    assert latest_state(tmp_path / "b" / "checkpoints") is None
    again = execute(config(tiny_npz), tmp_path / "b", resume=True)
    assert again["weights_sha256"] == whole["weights_sha256"]


def test_a_policy_that_raises_ends_the_run_as_failed_with_what_was_done(
    tiny_npz, tmp_path, monkeypatch
):
    (tmp_path / "bad.py").write_text(
        textwrap.dedent("""
        from gstds.policies import KeepRatioPolicy
        class Bad(KeepRatioPolicy):
            def __init__(self): super().__init__(picker="uniform")
            def keep_ratio(self, observation):
                return 0.5 if observation["progress"][0] < 0.3 else 1.3
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RunFailedError, match=r"step \d+ \(policy 'bad:Bad'.*got 1\.3"):
        execute(config(tiny_npz, policy="bad:Bad"), tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["steps"] > 0


def test_a_loss_that_explodes_is_reported_as_diverged(tiny_npz, tmp_path):
    wild = config(tiny_npz, learner="mlp", learning_rate=100.0, epochs=6, precision="float32")
    result = execute(wild, tmp_path)
    assert result["status"] == "diverged"
    json.dumps(result, allow_nan=False)


def test_defaults_are_the_environments(tiny_npz):
    run, env = RunConfig(), EnvOptions()
    for name, value in run.env_options().items():
        expected = getattr(env, name) if name != "learning_rate" else None
        assert value == expected, name


def test_the_identity_is_that_of_the_options(tiny_npz):
    assert identity(config(tiny_npz)) == identity(config(tiny_npz))
    assert identity(config(tiny_npz)) != identity(config(tiny_npz, epochs=4))


def test_the_identity_is_of_the_sources_that_results_depend_on(tiny_npz, monkeypatch, tmp_path):
    read, real = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))
    identity(config(tiny_npz))
    root = Path(__file__).resolve().parents[3]
    places = {path.resolve().relative_to(root).as_posix() for path in read}
    assert {"gstds/spectral/fiedler.py", "envs/selection/env.py", "policies/base.py"} <= places
    assert {place for place in places if place.startswith("train/")} == {
        path.relative_to(root).as_posix() for path in (root / "train" / "running").glob("*.py")
    }
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("one")
    before = identity(config(tiny_npz, policy="mine:Mine"))
    (tmp_path / "mine.py").write_text("two")
    assert identity(config(tiny_npz, policy="mine:Mine")) != before


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        config_from({"epoch": 3})


def test_coverage_counts_classes_effectively():
    assert coverage(np.array([5, 5, 5, 5])) == pytest.approx(1)
    assert coverage(np.array([9, 0, 0, 0])) == pytest.approx(0.25)
    assert coverage(np.zeros(4, np.int64)) == 0


def test_a_comparison_repeats_nothing_and_pairs_its_seeds(tiny_npz, tmp_path):
    comparison = Comparison(
        base=config(tiny_npz),
        policies=("random", "full"),
        seeds=2,
        baseline="random",
        name="test",
        folder=tmp_path,
        tracking=None,
        experiment="gstds",
    )
    told, watch = [], Watch()
    watch.ended = lambda job, result, old: told.append(old)
    content = compare(comparison, watch=watch)
    assert told == [False] * 6  # and short full training, once for each seed
    rows = {row["policy"]: row for row in content["summary"]}
    assert rows["full"]["relative_compute"] == pytest.approx(1)
    assert rows["random"]["relative_compute"] == pytest.approx(
        rows["random"]["mean_keep"], abs=0.01
    )
    assert {(r["policy"], r["seed"]) for r in content["runs"]} == {
        (p, s) for p in ("random", "full") for s in (0, 1)
    }
    told.clear()
    again = compare(comparison, watch=watch)
    assert told == [True] * 6
    assert again["summary"] == content["summary"]


def test_the_record_has_every_option_at_its_effective_value_by_its_group(tiny_npz, tmp_path):
    config = config_from({"dataset": tiny_npz, "policy": "random", "batch_size": 32, "epochs": 2})
    execute(config, tmp_path)
    params = next(read_log(tmp_path / LOG_NAME))[0]["params"]
    assert {name.partition(".")[2] for name in params} == set(names(RunConfig))
    groups = {"data", "learner", "budget", "reference", "policy", "run"}
    assert {name.partition(".")[0] for name in params} == groups
    assert params["policy.policy"] == "random"
    assert params["policy.keep"] == "None"
    assert params["learner.learning_rate"] == "0.1"
    assert params["learner.device"] == "cpu"
    assert params["budget.evaluations"] == "2"
