"""Every policy of the settings table under the same tests; a registry line enrolls a new one."""

from __future__ import annotations

import numpy as np
import pytest

from gstds.policies import KeepRatioPolicy, Policy, Transition
from gstds.selection.weights import kept_count
from tests.policies.settings import SETTINGS, N, make, observation


@pytest.fixture(params=SETTINGS)
def name(request):
    return request.param


@pytest.mark.parametrize("valid", [1, 2, 3, N])
def test_shape_type_range_and_padding(name, valid):
    policy = make(name)
    weights = policy.act(observation(policy, valid=valid))
    assert weights.shape == (N,)
    assert weights.dtype == np.float32
    assert np.isfinite(weights).all()
    assert weights.min() >= 0
    assert weights.max() <= policy.max_weight
    assert not weights[valid:].any()


def test_the_same_answer_to_the_same_question(name):
    one, other = make(name), make(name)
    for seed in range(3):
        np.testing.assert_array_equal(
            one.act(observation(one, seed)), other.act(observation(other, seed))
        )


class Watched(dict):
    def __init__(self, values):
        super().__init__(values)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


def test_what_is_declared_is_read(name):
    policy = make(name)
    read = set()
    for seed, progress in enumerate((0.1, 0.4, 0.7)):
        view = Watched(observation(policy, seed, progress=progress))
        policy.act(view)
        read |= view.read
    assert set(policy.needs) <= read


@pytest.mark.parametrize("key", ["last_losses", "learner_losses", "reference_losses", "features"])
def test_degenerate_batches_are_answered(name, key):
    policy = make(name)
    view = observation(policy)
    if key in view:
        view[key] = np.zeros_like(view[key])
    weights = policy.act(view)
    assert np.isfinite(weights).all()
    assert weights.min() >= 0


def test_reordering_a_batch_reorders_the_answer(name):
    one, other = make(name), make(name)
    view = observation(one)
    order = np.random.default_rng(1).permutation(N)
    moved = {k: v[order] if len(v) == N else v for k, v in view.items()}
    np.testing.assert_array_equal(other.act(moved), one.act(view)[order])


def test_really_prunes(name):
    policy = make(name)
    if not isinstance(policy, KeepRatioPolicy) or not getattr(policy.picker, "exact", True):
        pytest.skip("no fixed size")
    if type(policy).act is not KeepRatioPolicy.act:
        pytest.skip("its own way of keeping")
    for step in range(0, 100, 10):
        view = observation(policy, step, progress=step / 100)
        assert (policy.act(view) > 0).sum() == kept_count(policy.keep_ratio(view), N)


# ------------------------------------------------------------------ policies that learn

LEARNERS = [name for name in SETTINGS if type(make(name)).learn is not Policy.learn]
STEPS = 60


def moved(view, order):
    return {k: v[order] if len(v) == N else v for k, v in view.items()}


def taught(name, *, rewards=None, losses=None, order=None, policy=None):
    """A policy after some steps, with rewards or losses in another order, or reordered batches."""
    rng = np.random.default_rng(0)
    earned, told = rng.normal(size=STEPS), rng.random((STEPS, N)).astype(np.float32) * 3
    earned = earned if rewards is None else earned[rewards]
    told = told if losses is None else told[losses]
    policy = policy or make(name)
    rows = np.arange(N) if order is None else order
    for t in range(STEPS):
        now, then = (moved(observation(policy, s, progress=s / 100), rows) for s in (t, t + 1))
        # What comes of a step says it all: what was seen before it does not change.
        then["mean_last_loss"][:] = then["train_loss"][:] = told[t].mean()
        if "validation_loss" in then:
            then["validation_loss"][:] = 1.0 + told[t].mean()
        weights = policy.act(now)
        info = {"losses": told[t][rows], "trained": weights > 0, "evaluate": True}
        policy.learn(Transition(now, weights, float(earned[t]), then, info))
    return policy


def remembered(policy):
    return str(policy.state_dict())


def test_who_learns_nothing_asks_for_no_reward(name):
    if name not in LEARNERS:
        assert not make(name).uses_reward, "evaluations are charged that nothing reads"


@pytest.mark.parametrize("name", LEARNERS)
def test_shuffled_rewards_teach_something_else_where_rewards_are_asked_for(name):
    shuffled = np.random.default_rng(1).permutation(STEPS)
    policy = taught(name)
    assert remembered(taught(name)) == remembered(policy)
    differs = remembered(taught(name, rewards=shuffled)) != remembered(policy)
    assert differs == policy.uses_reward, "uses_reward must say whether learn reads the reward"


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_learned_does_not_depend_on_the_order_within_a_batch(name):
    order = np.random.default_rng(2).permutation(N)
    one, other = taught(name), taught(name, order=order)
    for seed in range(5):
        view = observation(one, 100 + seed, progress=0.7)
        np.testing.assert_array_equal(other.act(moved(view, order)), one.act(view)[order])


@pytest.mark.parametrize("name", LEARNERS)
def test_what_was_learned_is_in_the_state_and_decides(name):
    policy, again = taught(name), make(name)
    assert remembered(policy) != remembered(make(name))
    again.load_state_dict(policy.state_dict())
    assert remembered(again) == remembered(policy)
    for one in (policy, again):
        taught(name, policy=one)
    assert remembered(again) == remembered(policy)
    for seed in range(5):
        view = observation(policy, 200 + seed, progress=0.7)
        np.testing.assert_array_equal(again.act(view), policy.act(view))


# What these learn from is the reward, the bill, or what they saw before the step.
OTHER_SIGNALS = {
    "bandit",
    "best",
    "budget",
    "infobatch",
    "selective-backprop",
    "stale-selective-backprop",
    "windowed-selective-backprop",
}


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - OTHER_SIGNALS))
def test_shuffled_losses_teach_something_else(name):
    shuffled = np.random.default_rng(3).permutation(STEPS)
    assert remembered(taught(name, losses=shuffled)) != remembered(taught(name))
