from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstds.policies.adaptive.bandit import DiscountedUCB, Exp3S, RewardScale, make_bandit


def test_exp3s_is_its_formula():
    bandit = Exp3S(2, exploration=0.5, sharing=0.1)
    bandit.learn(0, 0.8)
    # p = .5, estimate 1.6; w0 = .5 exp(.5 · 1.6 / 2) + e · .1 / 2, w1 = .5 + e · .1 / 2
    w0 = 0.5 * math.exp(0.4) + math.e * 0.05
    w1 = 0.5 + math.e * 0.05
    expected = 0.5 * w0 / (w0 + w1) + 0.25
    np.testing.assert_allclose(bandit.probabilities, [expected, 1 - expected], rtol=1e-12)
    p1 = 1 - expected
    bandit.learn(1, 1.0)
    total = w0 + w1
    w1, w0 = w1 * math.exp(0.25 / p1) + math.e * 0.05 * total, w0 + math.e * 0.05 * total
    np.testing.assert_allclose(bandit.probabilities[1], 0.5 * w1 / (w0 + w1) + 0.25, rtol=1e-12)


def test_discounted_ucb_is_its_formula():
    bandit = DiscountedUCB(2, exploration=0.6, discount=0.9)
    bandit.learn(0, 1.0)
    bandit.learn(1, 0.2)
    bandit.learn(0, 0.5)
    n0, n1 = 0.9**2 + 1, 0.9
    means = (0.9**2 * 1.0 + 0.5) / n0, 0.2
    spread = 0.6 * math.log(n0 + n1)
    expected = [m + 2 * math.sqrt(spread / n) for m, n in zip(means, (n0, n1), strict=True)]
    np.testing.assert_allclose(bandit.indices, expected, rtol=1e-12)


def test_discounted_ucb_plays_every_arm_once_first():
    bandit = DiscountedUCB(5)
    played = []
    for uniform in (0.9, 0.1, 0.5, 0.99, 0.0):
        played.append(bandit.choose(uniform))
        bandit.learn(played[-1], 1.0)
    assert sorted(played) == [0, 1, 2, 3, 4]


def test_exp3s_chooses_with_its_probabilities():
    bandit = Exp3S(3, exploration=0.3)
    for _ in range(5):
        bandit.learn(2, 1.0)
    drawn = [bandit.choose(u) for u in np.linspace(0, 1, 2000, endpoint=False)]
    np.testing.assert_allclose(
        np.bincount(drawn, minlength=3) / 2000, bandit.probabilities, atol=2e-3
    )


def regret(algorithm, best, seed, **options):
    """Mean regret of a bandit whose best arm pays .8 and the others .2, and of uniform play."""
    rng = np.random.default_rng(seed)
    bandit = make_bandit(algorithm, 7, **options)
    lost = []
    for t in range(1500):
        arm = bandit.choose(rng.random())
        bandit.learn(arm, float(rng.random() < (0.8 if arm == best(t) else 0.2)))
        lost.append(0.6 * (arm != best(t)))
    return np.array(lost)


UNIFORM = 0.6 * 6 / 7


@pytest.mark.parametrize("algorithm", ["exp3s", "ducb"])
def test_regret_is_below_uniform_on_a_stationary_problem(algorithm):
    lost = regret(algorithm, lambda t: 4, seed=0)
    assert lost[500:].mean() < 0.6 * UNIFORM


@pytest.mark.parametrize("algorithm", ["exp3s", "ducb"])
def test_regret_is_below_uniform_after_the_best_arm_has_changed(algorithm):
    lost = regret(algorithm, lambda t: 1 if t < 750 else 5, seed=1)
    assert lost[400:750].mean() < 0.65 * UNIFORM
    assert lost[1150:].mean() < 0.65 * UNIFORM


@given(
    st.sampled_from(["exp3s", "ducb"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 1)), max_size=60),
)
def test_a_loaded_bandit_goes_on_as_the_saved_one(algorithm, steps):
    one, other = make_bandit(algorithm, 5), make_bandit(algorithm, 5)
    for uniform, reward in steps:
        arm = one.choose(uniform)
        assert 0 <= arm < 5
        one.learn(arm, reward)
    other.load_state_dict(one.state_dict())
    for uniform in (0.1, 0.6, 0.95):
        arm = one.choose(uniform)
        assert other.choose(uniform) == arm
        one.learn(arm, uniform)
        other.learn(arm, uniform)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_scaled_rewards_lie_in_the_unit_interval(rewards):
    scale = RewardScale()
    assert all(0.0 <= scale.scaled(reward) <= 1.0 for reward in rewards)


def test_scaling_knows_better_from_worse_at_any_size():
    for unit in (1e-4, 1.0, 1e4):
        up, down = RewardScale(), RewardScale()
        for reward in (1.0, 2.0, 1.5):
            up.scaled(unit * reward)
            down.scaled(unit * reward)
        assert up.scaled(unit * 1.9) > 0.6
        assert down.scaled(unit * 1.1) < 0.4


def test_scaling_is_its_formula():
    scale = RewardScale(0.5)
    assert scale.scaled(1.0) == 0.5
    scale.scaled(3.0)
    # Discounted by 1/2: weights .5 and 1, mean 7/3, variance 8/9.
    expected = 0.5 + (2.0 - 7 / 3) / (4 * math.sqrt(8 / 9))
    assert scale.scaled(2.0) == pytest.approx(expected, rel=1e-12)
    seen, weights = np.array([1.0, 3.0, 2.0]), np.array([0.25, 0.5, 1.0])
    mean = np.average(seen, weights=weights)
    spread = math.sqrt(np.average((seen - mean) ** 2, weights=weights))
    assert scale.scaled(2.5) == pytest.approx(0.5 + (2.5 - mean) / (4 * spread), rel=1e-12)


def test_what_is_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"algorithm: unknown name 'exp4'; .*exp3s"):
        make_bandit("exp4", 5)
    with pytest.raises(ValueError, match=r"reward must be in \[0, 1\], got 1\.5"):
        Exp3S(5).learn(0, 1.5)
    with pytest.raises(ValueError, match=r"discount must be in \(0, 1\], got 0"):
        DiscountedUCB(5, discount=0)
