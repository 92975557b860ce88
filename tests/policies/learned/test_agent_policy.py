from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from gstds import policies
from gstds.common.checksummed_json import read_sealed, sealed
from gstds.common.state import state_digest
from gstds.envs import DataSelectionEnv, KeepRatioEnv
from gstds.observation.summary import SUMMARY_HIGH, SUMMARY_LOW, SUMMARY_NAMES
from gstds.policies import RunContext, Transition
from gstds.policies.learned.agent_file import (
    Actor,
    AgentFile,
    AgentFileError,
    load_agent,
    save_agent,
    shipped_agents,
)
from gstds.policies.learned.agent_policy import Learned
from gstds.policies.learned.linucb import LinUCB

S = len(SUMMARY_NAMES)
RATIOS = [0.1, 0.3, 1.0]
WORLD = {"batch_size": 16, "epochs": 6, "learner": "mlp", "reward": "none"}
WORLD |= {"setting": "equal-budget", "budget": 0.5}


def agent(**changes):
    rng = np.random.default_rng(0)
    tensors = {
        "mean": np.zeros(S),
        "std": np.ones(S),
        "weight_0": rng.normal(size=(8, S)),
        "bias_0": rng.normal(size=8),
        "weight_1": 3 * rng.normal(size=(3, 8)),
        "bias_1": rng.normal(size=3),
    }
    made = {
        "actions": {"kind": "discrete", "ratios": RATIOS},
        "activation": "tanh",
        "interval": 2,
        "picker": "uniform",
        "tensors": {k: v.astype(np.float32) for k, v in tensors.items()},
    }
    return AgentFile(**(made | changes))


def drive(env, policy, seed=3):
    observation, _ = env.reset(seed=seed)
    policy.reset(7, RunContext(**env.context()))
    kept, done = [], False
    while not done:
        weights = policy.act(observation)
        following, reward, terminated, truncated, info = env.step(weights)
        policy.learn(Transition(observation, weights, reward, following, info))
        observation, done = following, terminated or truncated
        kept.append(info["kept"] / info["drawn"])
    return kept, state_digest(env.learner.model.state_dict())


def test_an_agent_keeps_the_same_samples_deployed_as_in_its_environment(tiny_npz, tmp_path):
    save_agent(tmp_path / "a", agent())
    deployed = DataSelectionEnv(dataset=tiny_npz, observe=(), **WORLD)
    kept, digest = drive(deployed, policies.make_policy(f"learned:{tmp_path / 'a'}"))
    env = KeepRatioEnv(dataset=tiny_npz, picker="uniform", ratios=RATIOS, interval=2, **WORLD)
    actor, done = Actor(load_agent(str(tmp_path / "a"))), False
    observation, _ = env.reset(seed=3)
    while not done:
        action = env.actions.action(actor.ratio(observation))
        observation, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
    assert len(set(kept)) > 1
    assert digest == state_digest(env.world.learner.model.state_dict())


def test_a_resumed_agent_goes_on_as_it_would_have(tiny_npz, tmp_path):
    rng = np.random.default_rng(1)
    lstm = {"lstm_input": (32, S), "lstm_hidden": (32, 8), "lstm_bias": (32,)}
    tensors = agent().tensors | {k: rng.normal(size=v).astype("f4") for k, v in lstm.items()}
    tensors["weight_0"] = rng.normal(size=(8, 8)).astype(np.float32)
    save_agent(tmp_path, agent(tensors=tensors))
    for make in (lambda: Learned(str(tmp_path)), lambda: LinUCB(picker="uniform", interval=2)):
        env = DataSelectionEnv(dataset=tiny_npz, observe=(), **WORLD)
        first, other = make(), make()
        observation, _ = env.reset(seed=0)
        for policy in (first, other):
            policy.reset(7, RunContext(**env.context()))
        for step in range(12):
            if step == 5:
                other.load_state_dict(first.state_dict())
            weights = first.act(observation)
            if step >= 5:
                np.testing.assert_array_equal(weights, other.act(observation))
            following, reward, *_, info = env.step(weights)
            for policy in (first, other) if step >= 5 else (first,):
                policy.learn(Transition(observation, weights, reward, following, info))
            observation = following


def test_the_lstm_is_torchs():
    rng = np.random.default_rng(0)
    lstm = torch.nn.LSTM(S, 4)
    numpy = {n: p.detach().numpy() for n, p in lstm.named_parameters()}
    tensors = {
        "mean": np.zeros(S, np.float32),
        "std": np.ones(S, np.float32),
        "lstm_input": numpy["weight_ih_l0"],
        "lstm_hidden": numpy["weight_hh_l0"],
        "lstm_bias": numpy["bias_ih_l0"] + numpy["bias_hh_l0"],
        "weight_0": np.eye(4, dtype=np.float32),
        "bias_0": np.zeros(4, np.float32),
    }
    actor = Actor(agent(tensors=tensors))
    x = rng.normal(size=(5, S)).astype(np.float32)
    wanted = lstm(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose([actor.answer(row) for row in x], wanted, atol=1e-6)


def truncate(folder):
    path = folder / "agent.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_byte(folder):
    path = folder / "agent.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def change(**changes):
    def apply(folder):
        path = folder / "agent.json"
        path.write_text(json.dumps(sealed(read_sealed(path) | changes)))

    return apply


def nan_weight(folder):
    tensors = load_file(folder / "agent.safetensors")
    tensors["weight_1"][0, 0] = np.nan
    save_agent(folder, agent(tensors=tensors))


def wrong_shape(folder):
    tensors = dict(agent().tensors)
    tensors["weight_1"] = tensors["weight_1"][:2]
    save_agent(folder, agent(tensors=tensors))


def other_file(folder):
    save_file({"mean": np.zeros(S, np.float32)}, folder / "agent.safetensors")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (truncate, "truncated"),
        (flip_a_byte, "checksum"),
        (other_file, "checksum"),
        (nan_weight, "NaN"),
        (wrong_shape, "network"),
        (change(version=2), "version"),
        (change(environment="gstds/KeepRatio-v1"), "KeepRatio-v1"),
        (change(observation=["progress"]), "SUMMARY_NAMES"),
        (change(activation="sin"), "activation"),
        (change(interval=0), "interval"),
        (change(actions={"kind": "discrete", "ratios": [0.1, 0.3, 2.0]}), "network"),
        (change(picker="hybird"), "hybrid"),
        (lambda folder: (folder / "agent.json").write_text("{"), "agent.json"),
        (lambda folder: (folder / "agent.json").unlink(), "no agent.json"),
        (lambda folder: (folder / "agent.safetensors").unlink(), "agent.safetensors"),
    ],
)
def test_a_damaged_or_foreign_agent_is_refused_by_name(tmp_path, damage, word):
    save_agent(tmp_path, agent())
    load_agent(str(tmp_path))
    damage(tmp_path)
    with pytest.raises(ValueError, match=word):
        policies.make_policy(f"learned:{tmp_path}")


def test_a_deployed_agent_needs_no_library_that_trained_it(tmp_path):
    save_agent(tmp_path, agent())
    script = (
        f"import sys, policies; policies.make_policy('learned:{tmp_path}');"
        "assert not {'stable_baselines3', 'gymnasium', 'pickle5'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], check=False)
    assert done.returncode == 0


def test_an_unknown_agent_lists_the_shipped_ones():
    with pytest.raises(AgentFileError, match="known:"):
        policies.make_policy("learned:no-such-agent")


@pytest.mark.parametrize("draw", ["ucb", "thompson"])
def test_a_bandit_finds_the_ratio_that_pays(draw):
    bandit = LinUCB([0.1, 0.5, 1.0], exploration=0.6, draw=draw, picker="uniform")
    summary = np.linspace(0, 1, S).astype(np.float32)
    taken = []
    for _ in range(60):
        ratio = bandit.decide(summary)
        bandit.credit({0.1: 0.2, 0.5: 0.8, 1.0: 0.1}[ratio])
        taken.append(ratio)
    assert {0.1, 0.5, 1.0} <= set(taken)
    assert taken[-20:].count(0.5) >= 14


def test_a_bandit_learns_in_a_run_and_other_losses_teach_it_something_else(tiny_npz):
    def learned(sign):
        env = DataSelectionEnv(dataset=tiny_npz, observe=(), **WORLD)
        policy = LinUCB(picker="uniform", interval=2)
        original = policy.credit
        policy.credit = lambda earned: original(sign * earned)
        drive(env, policy)
        return policy.state_dict()["moment"]

    assert np.abs(learned(1.0)).sum() > 0
    assert not np.array_equal(learned(1.0), learned(-1.0))


@pytest.mark.parametrize("name", sorted(shipped_agents()))
def test_a_shipped_agent_is_whole_and_says_how_it_was_made(name):
    agent = load_agent(name)
    training = agent.training
    assert training["command"].startswith("gstds learn ")
    assert training["cost"]["decisions"] > 0
    learned_on = [options for _, options in training["instances"]]
    assert not any(options in learned_on for _, options in training["held_out"])
    actor = Actor(agent)
    rng = np.random.default_rng(0)
    for _ in range(50):
        summary = rng.uniform(SUMMARY_LOW, SUMMARY_HIGH).astype(np.float32)
        assert actor.ratio(summary) in agent.actions["ratios"]


def test_there_is_a_shipped_agent():
    assert "fifth" in shipped_agents()
