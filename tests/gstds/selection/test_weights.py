from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gstds.common.noise import derived_uniform, keyed_uniform
from gstds.selection.weights import (
    hybrid,
    kept_count,
    loss_weights,
    top_k,
    uniform,
    weighted_sample,
    weights_for_ratio,
)

DRAWS = 4000


def noise(draw, n):
    return keyed_uniform(7, draw, indices=np.arange(n))


@pytest.mark.parametrize(
    ("ratio", "n", "k"),
    [
        (0, 10, 0),
        (0.01, 10, 1),
        (0.25, 10, 3),
        (0.24, 10, 2),
        (1, 7, 7),
        (0.5, 1, 1),
        (0.53, 128, 68),
    ],
)
def test_kept_count_rounds_half_up_and_keeps_at_least_one(ratio, n, k):
    assert kept_count(ratio, n) == k


@pytest.mark.parametrize("ratio", [-0.1, 1.3, float("nan")])
def test_a_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(ValueError, match=r"keep_ratio must be in \[0, 1\]"):
        kept_count(ratio, 10)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 50)), st.data())
def test_every_picker_returns_exactly_k_distinct_positions(losses, data):
    n = len(losses)
    k = data.draw(st.integers(0, n))
    u = noise(k, n)
    for picked in (
        uniform(k, u),
        top_k(losses, k, u),
        weighted_sample(losses, k, u),
        hybrid(losses, losses[::-1], k, u),
    ):
        assert len(np.unique(picked)) == k
        assert np.all(np.diff(picked) > 0)


def test_uniform_takes_each_sample_equally_often():
    counts = sum(np.bincount(uniform(3, noise(d, 10)), minlength=10) for d in range(DRAWS))
    expected = DRAWS * 0.3
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(DRAWS * 0.3 * 0.7)


def _inclusion(weights, k):
    """Exact inclusion probabilities of drawing one by one, by enumeration."""
    share = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights)), k):
        left, p = sum(weights), 1.0
        for i in order:
            p *= weights[i] / left
            left -= weights[i]
        share[list(order)] += p
    return share


def test_weighted_sampling_has_the_exact_inclusion_probabilities():
    weights = np.array([1.0, 2.0, 3.0, 10.0, 0.5])
    counts = sum(
        np.bincount(weighted_sample(weights, 2, noise(d, 5)), minlength=5) for d in range(DRAWS)
    )
    exact = _inclusion(weights, 2)
    assert np.abs(counts / DRAWS - exact).max() < 4.5 * 0.5 / np.sqrt(DRAWS)


def test_weights_of_zero_come_last():
    for draw in range(50):
        picked = weighted_sample([0.0, 1.0, 0.0, 1.0], 3, noise(draw, 4))
        assert {1, 3} <= set(picked)


def test_hybrid_takes_half_by_score_rounded_up_and_the_rest_by_inverse_loss():
    scores = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])
    losses = np.array([0.01, 5, 5, 5, 5, 5.0])
    counts = np.zeros(6)
    for draw in range(500):
        picked = hybrid(scores, losses, 3, noise(draw, 6))
        assert {1, 3} <= set(picked)
        counts[picked] += 1
    assert counts[0] > 0.9 * 500
    reverse = [
        hybrid(scores, losses, 3, noise(d, 6), loss_weighting="proportional") for d in range(500)
    ]
    assert sum(0 in picked for picked in reverse) < 50


def test_loss_weights():
    np.testing.assert_allclose(loss_weights([0.999, 0.0]), [1.0, 1000.0])
    np.testing.assert_allclose(loss_weights([2.0, 0.5], "proportional"), [2.0, 0.5])
    with pytest.raises(ValueError, match="did you mean 'inverse'"):
        loss_weights([1.0], "invers")


def test_reordering_a_batch_reorders_the_answer():
    rng = np.random.default_rng(0)
    n = 31
    batch = {
        "valid": np.ones(n, np.float32),
        "noise": rng.random(n).astype(np.float32),
        "spectral_scores": rng.random(n).astype(np.float32),
        "reference_losses": rng.random(n).astype(np.float32),
    }
    order = rng.permutation(n)
    shuffled = {name: value[order] for name, value in batch.items()}

    def pick(b, k, u):
        return hybrid(b["spectral_scores"], b["reference_losses"], k, u)

    first = weights_for_ratio(batch, 0.4, pick)
    np.testing.assert_array_equal(weights_for_ratio(shuffled, 0.4, pick), first[order])
    assert first.sum() == kept_count(0.4, n)


def test_padding_is_never_kept():
    valid = np.array([1, 1, 1, 0, 0], np.float32)
    batch = {"valid": valid, "noise": np.linspace(0, 0.9, 5, dtype=np.float32)}
    for ratio in (0.4, 1.0):
        weights = weights_for_ratio(batch, ratio, lambda b, k, u: uniform(k, u))
        assert weights.sum() == kept_count(ratio, 3)
        assert not weights[3:].any()


def test_noise_is_uniform_and_streams_differ():
    u = keyed_uniform(1, 2, indices=np.arange(50_000))
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(u.var() - 1 / 12) < 0.002
    for other in (
        keyed_uniform(2, 2, indices=np.arange(50_000)),
        keyed_uniform(1, 3, indices=np.arange(50_000)),
    ):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.02
    coarse = np.floor(u * 2**24) / 2**24
    derived = derived_uniform(coarse.astype(np.float32), 5)
    assert abs(np.corrcoef(u, derived)[0, 1]) < 0.02
