"""One policy for each shard: what it would do if its shard were the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gstds.observation.batch_view import shard_slices
from gstds.policies import Policy, Transition, make_policy
from gstds.policies.around import Sharded
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from gstds.train.running.setup import make_run_policy
from tests.policies import settings

CONTEXT = replace(settings.CONTEXT, batch_size=10)


class Noting(Policy):
    """Keeps the first of what it sees, and remembers everything."""

    def __init__(self):
        self.seen, self.learned = [], []

    def reset(self, seed, context):
        self.seed, self.context = seed, context

    def act(self, observation):
        self.seen.append(dict(observation))
        weights = np.zeros(len(observation["valid"]), np.float32)
        weights[0] = 1
        return weights

    def learn(self, transition):
        self.learned.append(transition)

    def step_flops(self, drawn, kept, context):
        return 100.0 * drawn + kept + context.batch_size * 1e4

    def state_dict(self):
        return {"steps": len(self.seen)}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def view(n, valid):
    mask = (np.arange(n) < valid).astype(np.float32)
    rows = np.arange(n, dtype=np.float32)
    features = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
    return {"valid": mask, "noise": rows, "features": features, "progress": np.array([0.5])}


def test_each_part_sees_its_rows_padded_to_a_shards_size():
    policy = Sharded([Noting(), Noting(), Noting()])
    policy.reset(7, CONTEXT)
    assert [part.context.batch_size for part in policy.parts] == [4, 4, 4]
    assert len({part.seed for part in policy.parts}) == 3
    weights = policy.act(view(10, 10))
    assert np.flatnonzero(weights).tolist() == [0, 3, 6]
    seen = [part.seen[0] for part in policy.parts]
    assert [s["valid"].tolist() for s in seen] == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert seen[1]["noise"].tolist() == [3, 4, 5, 0]
    assert seen[2]["features"].tolist() == [[12, 13], [14, 15], [16, 17], [18, 19]]
    assert all(s["progress"] == 0.5 for s in seen)


def test_a_part_without_samples_is_not_asked_and_learns_nothing():
    policy = Sharded([Noting(), Noting(), Noting()])
    before, after = view(10, 2), view(10, 0)
    weights = policy.act(before)
    assert [len(part.seen) for part in policy.parts] == [0, 1, 1]
    info = {
        "losses": np.arange(10, dtype=np.float32),
        "indices": np.array([4, 9, *[-1] * 8]),
        "trained": weights > 0,
        "drawn": 2,
        "kept": 2,
        "step": 3,
    }
    policy.learn(Transition(before, weights, 0.5, after, info))
    assert [len(part.learned) for part in policy.parts] == [0, 1, 1]
    of_last = policy.parts[2].learned[0]
    assert of_last.info["losses"].tolist() == [1, 0, 0, 0]
    assert of_last.info["indices"].tolist() == [9, -1, -1, -1]
    assert of_last.info["trained"].tolist() == [True, False, False, False]
    assert (of_last.info["drawn"], of_last.info["kept"], of_last.info["step"]) == (1, 1, 3)
    assert of_last.weights.tolist() == [1, 0, 0, 0]
    assert of_last.next_observation["valid"].tolist() == [0, 0, 0, 0]


def test_costs_are_summed_and_states_are_kept_apart():
    policy = Sharded([Noting(), Noting()])
    assert policy.step_flops(9, 5, CONTEXT) == 900 + 5 + 2 * 5e4
    policy.act(view(10, 10))
    other = Sharded([Noting(), Noting()])
    other.load_state_dict(policy.state_dict())
    assert [part.steps for part in other.parts] == [1, 1]
    with pytest.raises(ValueError, match="the state is of 2 parts, not of 3"):
        Sharded([Noting()] * 3).load_state_dict(policy.state_dict())
    with pytest.raises(ValueError, match="parts must hold a policy for each shard, got none"):
        Sharded([])


@pytest.mark.parametrize("name", ["gstds", "random", "big-loss", "infobatch", "divbs", "best"])
def test_a_sharded_choice_is_that_of_the_shards(name):
    policy, n = Sharded([make_policy(name), make_policy(name)]), settings.N
    policy.reset(0, settings.CONTEXT)
    observation = settings.observation(policy)
    got = policy.act(observation)
    for rows in shard_slices(n, 2):
        part = {k: v[rows] if len(v) == n else v for k, v in observation.items()}
        if name != "divbs":  # it draws for itself: with another seed in each shard
            np.testing.assert_array_equal(got[rows], settings.make(name).act(part))
        assert 0 < (got[rows] > 0).sum() <= n // 2


@pytest.mark.parametrize("policy", ["gstds", "bandit", "loss-gap", "infobatch"])
def test_a_sharded_run_resumes_as_if_it_had_not_stopped(tiny_npz, tmp_path, policy):
    from tests.stops import StopAfter

    options = {"dataset": tiny_npz, "policy": policy, "batch_size": 21, "epochs": 4}
    config = config_from(options | {"reference": "untrained", "shards": 2, "device": "cpu"})
    assert isinstance(make_run_policy(config), Sharded)
    whole = execute(config, tmp_path / "whole", checkpoint_every=4)
    assert execute(config, tmp_path / "part", stop=StopAfter(11))["status"] == "interrupted"
    part = execute(config, tmp_path / "part", resume=True)
    assert part["weights_sha256"] == whole["weights_sha256"]
    assert part["charged_flops"] == whole["charged_flops"]
    assert 0 < whole["mean_keep"] <= 1
