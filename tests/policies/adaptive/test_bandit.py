from __future__ import annotations

import numpy as np
import pytest

from gstds.policies import Transition, make_policy
from gstds.policies.adaptive.bandit import RATIOS
from tests.policies.settings import CONTEXT, N, make, observation


def pay(policy, reward, evaluate=True):
    view = observation(policy)
    weights = np.ones(N, np.float32)
    policy.learn(Transition(view, weights, reward, view, {"evaluate": evaluate}))
    return policy.keep_ratio(view)


def test_a_ratio_is_held_until_an_evaluation():
    policy = make("bandit")
    first = policy.keep_ratio(observation(policy))
    before = policy.state_dict()["generator"]
    assert [pay(policy, 0.0, evaluate=False) for _ in range(20)] == [first] * 20
    assert policy.state_dict()["generator"] == before
    pay(policy, 0.0)
    assert policy.state_dict()["generator"] != before


def test_ratios_are_those_given_and_all_are_tried():
    policy = make_policy("bandit", ratios=[0.2, 0.4, 0.6, 0.8, 1.0])
    policy.reset(3, CONTEXT)
    assert {pay(policy, 0.1) for _ in range(200)} == {0.2, 0.4, 0.6, 0.8, 1.0}


def ends_with(algorithm, reward_of, steps):
    policy = make_policy("bandit", algorithm=algorithm)
    policy.reset(0, CONTEXT)
    for t in range(steps):
        pay(policy, reward_of(policy, t))
    played = []
    for t in range(200):
        pay(policy, reward_of(policy, steps + t))
        played.append(RATIOS.index(policy.keep_ratio({})))
    return np.bincount(played, minlength=len(RATIOS)) / len(played)


@pytest.mark.parametrize("algorithm", ["exp3s", "ducb"])
def test_the_ratio_that_pays_is_played_more_than_by_chance(algorithm):
    noise = np.random.default_rng(0).normal(size=2000) * 0.02
    shares = ends_with(
        algorithm, lambda p, t: 0.1 * (p.keep_ratio({}) == 0.3) + noise[t], steps=500
    )
    assert shares.argmax() == RATIOS.index(0.3)
    assert shares.max() > 2 / len(RATIOS)


@pytest.mark.parametrize("algorithm", ["exp3s", "ducb"])
def test_shuffled_rewards_make_another_update(algorithm):
    rewards = [0.3, 0.0, 0.2, 0.05, 0.1, 0.4]
    states = []
    for order in (rewards, rewards[::-1]):
        policy = make_policy("bandit", algorithm=algorithm)
        policy.reset(0, CONTEXT)
        for reward in order:
            pay(policy, reward)
        states.append(policy.state_dict()["bandit"])
    assert any(not np.array_equal(states[0][k], states[1][k]) for k in states[0])


def test_the_seed_is_the_only_source_of_chance():
    def played(seed):
        policy = make_policy("bandit")
        policy.reset(seed, CONTEXT)
        return [pay(policy, 0.1) for _ in range(30)]

    assert played(1) == played(1)
    assert played(1) != played(2)


def test_it_asks_for_a_reward_so_that_evaluations_are_charged():
    assert make_policy("bandit").uses_reward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": [0.5, 1.0]}, "ratios must be 5 to 9 keep ratios, got 2"),
        ({"ratios": [0.1, 0.2, 0.3, 0.5, 0.4]}, "ratios must rise"),
        ({"ratios": [0.1, 0.2, 0.3, 0.5, 1.4]}, r"ratios must be in \(0, 1\], got 1\.4"),
        ({"algorithm": "ucb"}, "algorithm: unknown name 'ucb'; did you mean 'ducb'"),
        ({"exploration": -1.0}, "exploration must be in"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy("bandit", **options)
