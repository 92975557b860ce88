from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import RunContext, Transition, make_policy
from policies.best import Best, rank_in_class
from policies.loss_model import LossModel

N = 40
CONTEXT = RunContext(
    batch_size=N,
    budget_flops=750.0,
    epochs=10,
    forward_flops=1.0,
    max_draws=400,
    num_classes=4,
    num_samples=100,
    sample_flops=3.0,
    setting="equal-budget",
    steps_per_epoch=3,
    total_steps=30,
)


def view(seed=0, valid=N, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(N) % classes)
    arrays = {
        "valid": np.arange(N) < valid,
        "noise": rng.integers(0, 1 << 24, N) / float(1 << 24),
        "labels": labels,
        "last_losses": rng.exponential(1.0, N),
        "reference_losses": rng.exponential(0.5, N).clip(0, 1.3),
        "age": rng.random(N),
        "visited": np.ones(N),
        "progress": np.array([0.5]),
    }
    return {name: np.asarray(value, np.float32) for name, value in arrays.items()}


def begun(taught=0, **options):
    policy = Best(**options)
    policy.reset(7, CONTEXT)
    for seed in range(taught):
        teach(policy, seed)
    return policy


def teach(policy, seed):
    """One step after which the learner's loss is three quarters of the last loss."""
    observation = view(1000 + seed)
    weights = policy.act(observation)
    info = {"losses": 0.75 * observation["last_losses"], "trained": weights > 0}
    policy.learn(Transition(observation, weights, 0.0, observation, info))


@given(keep=st.floats(0.01, 1.0), valid=st.integers(1, N), seed=st.integers(0, 99))
def test_it_keeps_the_exact_count_with_weight_one(keep, valid, seed):
    weights = begun(keep=keep).act(view(seed, valid))
    wanted = min(valid, max(1, int(np.floor(keep * valid + 0.5))))
    assert (weights > 0).sum() == weights.sum() == wanted
    assert not weights[valid:].any()


@pytest.mark.parametrize("balance", [True, False])
def test_the_same_observation_gives_the_same_answer_in_any_order(balance):
    policy, observation = begun(keep=0.3, balance=balance), view(3)
    answer = policy.act(observation)
    np.testing.assert_array_equal(begun(keep=0.3, balance=balance).act(observation), answer)
    order = np.random.default_rng(1).permutation(N)
    shuffled = {k: v[order] if v.shape == (N,) else v for k, v in observation.items()}
    np.testing.assert_array_equal(policy.act(shuffled), answer[order])


@pytest.mark.parametrize("balance", [True, False])
def test_suspected_labels_are_kept_only_when_no_others_are_left(balance):
    observation = view(5)
    wrong = np.arange(N) % 5 == 0
    observation["reference_losses"][wrong] = 3.0
    observation["age"][wrong] = 1.0
    policy = begun(keep=0.8, balance=balance)
    assert not policy.act(observation)[wrong].any()
    policy.keep = 0.9
    kept = policy.act(observation)
    assert kept[~wrong].all()
    assert kept[wrong].sum() == 4


def test_classes_take_turns():
    observation = view(2)
    observation["age"][observation["labels"] == 1] = 100.0
    kept = begun(keep=0.2).act(observation) > 0
    np.testing.assert_array_equal(np.bincount(observation["labels"][kept].astype(int)), [2] * 4)
    kept = begun(keep=0.2, balance=False).act(observation) > 0
    assert (observation["labels"][kept] == 1).all()


@pytest.mark.parametrize(("option", "key"), [("learnability", "last_losses"), ("coverage", "age")])
def test_each_weight_draws_towards_what_it_stands_for(option, key):
    off = {"learnability": 0.0, "coverage": 0.0, "balance": False, "keep": 0.25}

    def mean_of_kept(**options):
        policy = begun(taught=20, **off | options)
        views = [view(seed) for seed in range(30)]
        return np.mean([v[key][policy.act(v) > 0].mean() for v in views])

    everyone = np.mean([view(seed)[key].mean() for seed in range(30)])
    spread = np.std([view(seed)[key] for seed in range(30)])
    assert abs(mean_of_kept() - everyone) < 0.2 * spread
    assert mean_of_kept(**{option: 3.0}) > everyone + 0.5 * spread


def test_coverage_counts_in_passes_of_the_run():
    assert begun()._passes == pytest.approx(2.5)
    policy = Best(keep=0.5)
    policy.reset(0, dataclasses.replace(CONTEXT, setting="equal-epochs"))
    assert policy._passes == 5.0


def test_a_resumed_policy_is_the_one_that_never_stopped():
    policy, resumed = begun(taught=5, keep=0.3), begun(keep=0.3)
    resumed.load_state_dict(policy.state_dict())
    for seed in range(5, 10):
        np.testing.assert_array_equal(resumed.act(view(seed)), policy.act(view(seed)))
        teach(policy, seed)
        teach(resumed, seed)
    for name, array in policy.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], array)
    assert (begun(keep=0.3).act(view(5)) != policy.act(view(5))).any()


def test_the_loss_model_finds_the_rule_and_follows_a_change_of_it():
    model, batch = LossModel(4), view(0)
    np.testing.assert_array_equal(model.predict(batch), np.zeros(N))
    for factor in (0.75, 0.25):
        for seed in range(200):
            seen = view(seed)
            model.update(seen, factor * seen["last_losses"].clip(0, 5))
        guess = model.predict(batch)
        np.testing.assert_allclose(guess, factor * batch["last_losses"].clip(0, 5), atol=0.12)


def test_the_loss_model_knows_the_classes_of_samples_never_seen():
    model, batch = LossModel(4), view(0)
    for seed in range(40):
        seen = view(seed)
        seen["visited"] = np.float32(seen["noise"] < 0.5)
        model.update(seen, 0.5 * seen["labels"] + seen["visited"])
    batch["visited"] = np.zeros(N, np.float32)
    np.testing.assert_allclose(model.predict(batch), 0.5 * batch["labels"], atol=0.05)


@given(
    st.lists(st.tuples(st.integers(-5, 5).map(float), st.integers(0, 3)), min_size=1, max_size=30)
)
def test_ranks_count_from_the_best_of_each_class(pairs):
    scores, labels = map(np.array, zip(*pairs, strict=True))
    ranks = rank_in_class(scores, labels)
    for label in np.unique(labels):
        mine = labels == label
        assert sorted(ranks[mine]) == list(range(mine.sum()))
        assert (np.diff(scores[mine][np.argsort(ranks[mine])]) <= 0).all()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"keep": 0}, ValueError, r"keep must be in \(0, 1\], got 0"),
        ({"learnability": -1}, ValueError, "learnability must be in"),
        ({"coverage": float("nan")}, ValueError, "coverage must be in"),
        ({"doubt": 0}, ValueError, "doubt must be in"),
        ({"balance": 1}, TypeError, "balance must be true or false"),
    ],
)
def test_bad_options_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        make_policy("best", **options)
