from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstds.policies import RunContext, Transition, make_policy
from gstds.policies.best import Best

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


def view(seed=0, valid=N, **changes):
    rng = np.random.default_rng(seed)
    arrays = {
        "valid": np.arange(N) < valid,
        "noise": rng.integers(0, 1 << 24, N) / float(1 << 24),
        "last_losses": rng.exponential(1.0, N),
        "reference_losses": rng.exponential(0.01, N),
        "visited": np.ones(N),
        "progress": np.array([0.5]),
    }
    return {name: np.asarray(value, np.float32) for name, value in (arrays | changes).items()}


def begun(**options):
    policy = Best(**options)
    policy.reset(7, CONTEXT)
    return policy


def teach(policy, observation, loss=0.0):
    weights = policy.act(observation)
    info = {"losses": np.full(N, loss), "trained": weights > 0}
    policy.learn(Transition(observation, weights, 0.0, observation, info))


@given(keep=st.floats(0.01, 1.0), valid=st.integers(1, N), seed=st.integers(0, 99))
def test_it_keeps_the_exact_count_with_its_weight(keep, valid, seed):
    weights = begun(keep=keep, weight=1.5).act(view(seed, valid))
    wanted = min(valid, max(1, int(np.floor(keep * valid + 0.5))))
    assert (weights > 0).sum() == wanted
    assert set(np.unique(weights)) <= {np.float32(0.0), np.float32(1.5)}
    assert not weights[valid:].any()


def test_the_order_of_a_batch_changes_nothing():
    policy, observation = begun(keep=0.3), view(3)
    answer = policy.act(observation)
    order = np.random.default_rng(1).permutation(N)
    shuffled = {k: v[order] if v.shape == (N,) else v for k, v in observation.items()}
    np.testing.assert_array_equal(policy.act(shuffled), answer[order])


def test_odds_follow_the_error_last_seen():
    """Of two kinds of samples, how often one is drawn first is its share of the odds."""
    losses = np.where(np.arange(N) < N // 2, -np.log(1 - 0.4), 0.0)  # errors .4 and 0
    policy = begun(keep=1 / N, floor=0.1)
    draws = [policy.act(view(seed, last_losses=losses)).argmax() < N // 2 for seed in range(2000)]
    # 20 samples of odds .5 beside 20 of odds .1
    assert np.mean(draws) == pytest.approx(5 / 6, abs=0.025)


def test_a_sample_that_was_never_trained_on_is_preferred():
    """Whatever the unit and the sign of the losses, and whatever it shows."""
    visited = np.arange(N) != 7
    for classes, losses in ((4, np.full(N, 0.01)), (1, np.linspace(-900, -800, N))):
        policy = begun(keep=1 / N, floor=1e-3, doubt=0)
        policy.reset(7, replace_classes(classes))
        changes = {"last_losses": losses, "visited": visited}
        drawn = [policy.act(view(seed, **changes)).argmax() for seed in range(400)]
        # beside 39 samples of error .01, or of a share of the batch that is 1/2 in the mean
        odds = 0.751 / (0.751 + 39 * 0.011) if classes > 1 else 1.001 / (1.001 + 39 * 0.5)
        assert np.mean(np.array(drawn) == 7) == pytest.approx(odds, abs=0.08)


def replace_classes(classes):
    return RunContext(**vars(CONTEXT) | {"num_classes": classes})


def test_elsewhere_than_in_a_classification_the_unit_and_the_sign_change_nothing():
    losses = np.random.default_rng(0).exponential(1.0, N)
    kept = []
    for told in (losses, 1e4 * losses, losses - 50):
        policy = begun(keep=0.3, doubt=0)
        policy.reset(7, replace_classes(1))
        kept.append(policy.act(view(1, last_losses=told)).tolist())
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.told("Policies and plug-ins", "`best` where labels are no classes")
def test_labels_that_are_no_classes_cannot_be_doubted():
    with pytest.raises(ValueError, match=r"doubt=0.1 .* num_classes is 1; pass num_classes=, or"):
        Best().reset(0, replace_classes(1))


def noisy(seed=0):
    """A fifth of the labels wrong: nothing is sure, and the wrong ones are what they look like."""
    wrong = np.arange(N) % 5 == 0
    return view(seed, reference_losses=np.where(wrong, 4.0, 0.2), last_losses=np.ones(N)), wrong


def test_likely_wrong_labels_are_kept_only_when_no_others_are_left():
    observation, wrong = noisy()
    assert not begun(keep=0.8).act(observation)[wrong].any()
    kept = begun(keep=0.9).act(observation) > 0
    assert kept[~wrong].all()
    assert kept[wrong].sum() == 4
    assert begun(keep=0.8, doubt=0).act(observation)[wrong].any()


def test_on_clean_labels_a_high_reference_loss_is_no_fault():
    hard = np.arange(N) % 5 == 0
    observation = view(0, reference_losses=np.where(hard, 4.0, 0.0), last_losses=np.ones(N))
    np.testing.assert_array_equal(
        begun(keep=0.5).act(observation), begun(keep=0.5, doubt=0).act(observation)
    )


def test_the_share_of_wrong_labels_is_the_mean_over_the_batches_seen():
    policy = begun(keep=0.5)
    for surest in (0.1, 0.4):
        teach(policy, view(reference_losses=np.full(N, surest)))
    assert policy.state_dict()["trust"]["batches"] == 2
    assert policy.state_dict()["trust"]["surest"] == pytest.approx(0.25)
    teach(policy, view(reference_losses=np.full(N, 0.7)))
    assert policy.state_dict()["trust"]["surest"] == pytest.approx(0.4)


def test_a_resumed_policy_is_the_one_that_never_stopped():
    policy, resumed = begun(keep=0.3), begun(keep=0.3)
    for seed in range(5):
        teach(policy, noisy(seed)[0])
    resumed.load_state_dict(policy.state_dict())
    for seed in range(5, 10):
        np.testing.assert_array_equal(resumed.act(view(seed)), policy.act(view(seed)))
        teach(policy, view(seed))
        teach(resumed, view(seed))
    assert resumed.state_dict() == policy.state_dict()


def teach_often(policy, times, **told):
    for _ in range(times):
        teach(policy, view(), **told)


def weight(policy):
    return policy.act(view()).max()


@pytest.mark.told("Policies and plug-ins", "`best`, and the loss rises")
def test_the_weight_is_halved_each_time_that_the_loss_rises():
    policy = begun()
    for _ in range(100):
        teach(policy, view(), loss=0.5)
    assert weight(policy) == pytest.approx(2.0)
    with pytest.warns(UserWarning, match="loss weight, 2, is halved, down to 0.25 if it goes on"):
        teach_often(policy, 40, loss=1.5)
    for wanted in (1.0, 0.5, 0.25, 0.25):  # the last is the floor
        for _ in range(100):
            teach(policy, view(), loss=0.5)
        assert weight(policy) == pytest.approx(wanted)
        for _ in range(40):
            teach(policy, view(), loss=1.5)
    assert weight(policy) == pytest.approx(0.25)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("unit", "shift"), [(1.0, 0.0), (1e4, 0.0), (1.0, -20.0)])
def test_a_loss_of_any_unit_that_falls_halves_nothing(unit, shift):
    policy = begun(doubt=0)
    policy.reset(7, replace_classes(1))
    rng = np.random.default_rng(0)
    for step in range(300):
        teach(policy, view(step), loss=shift + unit * np.exp(-step / 50) * rng.exponential(1.0, N))
    assert weight(policy) == pytest.approx(2.0)


def test_doubt_is_where_trust_ends():
    """Chances of .2 are beyond a doubt of .1, not of .5."""
    reference = np.full(N, 0.2)
    share = 1 - np.exp(-0.2)
    reference[:4] = np.log(0.2 * 4 / share)
    observation = view(reference_losses=reference, last_losses=np.ones(N))
    assert not begun(keep=0.8, doubt=0.1).act(observation)[:4].any()
    kept = [begun(keep=0.8, doubt=0.5).act(view(seed) | {k: observation[k] for k in
            ("reference_losses", "last_losses")})[:4].any() for seed in range(20)]  # fmt: skip
    assert np.mean(kept) > 0.5


def test_what_it_needs_follows_from_its_doubt():
    assert dict(Best().needs) == {"reference_losses": {}}
    assert dict(Best(doubt=0).needs) == {}
    observation = view()
    del observation["reference_losses"]
    teach(begun(doubt=0), observation)
    assert Best(weight=3).max_weight == 3.0
    assert Best(weight=0.5).max_weight == 1.0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"keep": 0}, ValueError, r"keep must be in \(0, 1\], got 0"),
        ({"floor": 0}, ValueError, "floor must be in"),
        ({"weight": float("nan")}, ValueError, "weight must be in"),
        ({"doubt": 1.2}, ValueError, r"doubt must be in \[0, 1\], got 1.2"),
        ({"keep": "much"}, TypeError, "keep must be a number"),
    ],
)
def test_bad_options_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        make_policy("best", **options)
