from __future__ import annotations

import json
import tempfile

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from gstds.policies.learned.agent_file import Actor, load_agent
from gstds.train.agents.config import AgentConfig
from gstds.train.agents.learn import Teacher, learn
from gstds.train.cli.listed import listed
from gstds.train.cli.main import main
from gstds.train.running.run import StopFlag

SMALL = {"batch_size": 16, "epochs": 4, "picker": "uniform", "learner": "mlp", "interval": 2}
FEW = {"ppo": {"n_steps": 16, "batch_size": 8, "n_epochs": 2}, "a2c": {"n_steps": 16}}
FEW |= {"recurrent-ppo": FEW["ppo"], "dqn": {"learning_starts": 8}, "sac": {"learning_starts": 8}}


def config(npz, agent="ppo", **changes):
    made = {
        "agent": agent,
        "agent_params": FEW[agent],
        "steps": 32,
        "instances": [{"name": "a", "dataset": npz}],
        "held_out": [{"name": "b", "dataset": npz, "split_seed": 3}],
        "evaluate_every": 1000,
        "env": SMALL,
    }
    return AgentConfig(**(made | changes))


@pytest.mark.parametrize("agent", ["ppo", pytest.param("a2c", marks=pytest.mark.slow)])
def test_a_stopped_and_resumed_agent_is_the_one_that_was_never_stopped(tiny_npz, tmp_path, agent):
    whole = learn(config(tiny_npz, agent), tmp_path / "whole")
    stop = StopFlag()

    def at_the_first_decision(phase, done, total):
        if phase == "learning":
            stop.set()

    folder = tmp_path / "parts"
    teacher = Teacher(config(tiny_npz, agent), folder, progress=at_the_first_decision)
    assert teacher.teach(stop)["status"] == "interrupted"
    parts = learn(config(tiny_npz, agent), tmp_path / "parts", resume=True)
    assert parts["status"] == whole["status"] == "finished"
    assert parts["episodes"] == whole["episodes"]
    a, b = (load_agent(str(tmp_path / name / "last")).tensors for name in ("whole", "parts"))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert whole["cost"]["charged_flops"] > 0


def test_learning_leaves_nothing_in_the_temporary_folder(tiny_npz, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    learn(config(tiny_npz), tmp_path / "agent")
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    "agent", [pytest.param(n, marks=pytest.mark.slow) if n != "sac" else n for n in FEW]
)
def test_what_is_exported_answers_as_the_model_does(tiny_npz, tmp_path, agent):
    teacher = Teacher(config(tiny_npz, agent), tmp_path)
    teacher.teach()
    actor = Actor(load_agent(str(tmp_path / "last")))
    rng = np.random.default_rng(0)
    state, start = None, np.array([True])
    for _ in range(5):
        summary = rng.random(teacher.env.observation_space.shape).astype(np.float32)
        action, state = teacher.model.predict(summary, state, start, deterministic=True)
        start = np.array([False])
        assert actor.ratio(summary) == pytest.approx(teacher.env.actions.ratio(action), abs=1e-5)


def test_a_learned_on_instance_cannot_be_held_out(tiny_npz, tmp_path):
    same = [{"name": "b", "dataset": tiny_npz}]
    with pytest.raises(ValueError, match="one of those learned on"):
        Teacher(config(tiny_npz, held_out=same), tmp_path)
    with pytest.raises(ValueError, match="held_out"):
        AgentConfig(instances="small-train", held_out="small-train")
    with pytest.raises(ValueError, match="did you mean 'ppo'"):
        AgentConfig(agent="pppo")
    assert {"ppo", "sac", "recurrent-ppo"} <= set(listed("agents"))


def test_the_command_line_teaches_and_the_agent_runs(tiny_npz, tmp_path, capsys, store_uri):
    out = tmp_path / "agent"
    held_out = json.dumps([{"name": "b", "dataset": tiny_npz, "split_seed": 3}])
    words = ["learn", "--steps", "16", "--dataset", tiny_npz, "--learner", "mlp", "--batch-size"]
    words += ["16", "--epochs", "4", "--picker", "uniform", "--instances", '[{"name": "a"}]']
    words += ["--held-out", held_out, "--agent-params", "n_steps=16", "batch_size=8"]
    words += ["--register", "keeper"]
    assert main([*words, "--out", str(out), "--no-tracking"]) == 2
    assert "--register needs" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--out", str(out), "--tracking-uri", store_uri]) == 0
    said, progress = capsys.readouterr()
    assert "finished" in said
    assert "learning 1/16" in progress
    assert progress.count("after 0 decisions: held-out accuracy") == 1
    assert progress.count("after 16 decisions: held-out accuracy") == 1
    assert "registered: models:/keeper/1" in said
    run = ["run", "--policy", f"learned:{out / 'best'}", "--dataset", tiny_npz, "--learner", "mlp"]
    run += ["--batch-size", "16", "--setting", "equal-budget", "--epochs", "4", "--no-tracking"]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"


def test_an_agent_that_wrecks_its_learner_is_told_so_in_finite_numbers(tiny_npz, tmp_path):
    wrecking = {**SMALL, "dataset": tiny_npz, "learning_rate": 100.0, "ratios": [0.5, 1.0]}
    result = learn(
        AgentConfig(
            agent="ppo",
            agent_params={"n_steps": 16, "batch_size": 8},
            steps=16,
            instances=[{"name": "a"}],
            held_out=[{"name": "b", "split_seed": 3}],
            env=wrecking,
        ),
        tmp_path,
    )
    assert result["status"] == "finished"
    assert max(row["selection_loss"] for row in result["episodes"]) == 100
    assert json.loads((tmp_path / "result.json").read_text())["history"][-1]["loss"] == 100
