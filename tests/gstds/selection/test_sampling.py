from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstds.common.noise import keyed_uniform
from gstds.selection.weights import (
    bernoulli_by_percentile,
    chunked_softmax,
    keep_probabilities,
    percentiles,
    softmax_sample,
    solve_exponent,
)

SCORES = np.array([2.0, 1.0, 0.0, -1.0, 0.5])


def noise(step, n=5):
    return np.maximum(keyed_uniform(7, step, indices=np.arange(n)), 2.0**-54)


def inclusion(pick, draws=4000, n=5):
    counts = np.zeros(n)
    for step in range(draws):
        # 24 bits, as the environment gives them
        counts[pick(np.floor(noise(step, n) * 2**24 + 0.5) / 2**24)] += 1
    return counts / draws


def successive_softmax(scores, k):
    """Exact inclusion probabilities of drawing k one after the other, without replacement."""
    weights = np.exp(scores)
    chances = np.zeros(len(scores))

    def walk(left, probability, depth):
        if depth == 0:
            return
        total = weights[left].sum()
        for i in left:
            p = probability * weights[i] / total
            chances[i] += p
            walk([j for j in left if j != i], p, depth - 1)

    walk(list(range(len(scores))), 1.0, k)
    return chances


@pytest.mark.parametrize(
    "pick",
    [
        lambda u: softmax_sample(SCORES, 3, u),
        lambda u: chunked_softmax(SCORES, 3, u, chunks=3),
        lambda u: chunked_softmax(SCORES, 3, u, chunks=2),
        lambda u: chunked_softmax(SCORES, 3, u, chunks=16),
    ],
)
def test_softmax_and_chunks_draw_with_the_chances_of_the_definition(pick):
    np.testing.assert_allclose(inclusion(pick), successive_softmax(SCORES, 3), atol=0.03)


def test_a_low_temperature_takes_the_top_and_a_high_one_is_uniform():
    cold = inclusion(lambda u: softmax_sample(SCORES, 2, u, temperature=1e-3), 200)
    np.testing.assert_array_equal(cold, [1, 1, 0, 0, 0])
    hot = inclusion(lambda u: chunked_softmax(SCORES, 2, u, temperature=1e3))
    np.testing.assert_allclose(hot, 0.4, atol=0.03)


@given(n=st.integers(1, 40), share=st.floats(0, 1), chunks=st.integers(1, 20))
def test_chunks_keep_exactly_k(n, share, chunks):
    k = round(share * n)
    picked = chunked_softmax(np.arange(n) * 0.1, k, noise(0, n), chunks=chunks)
    assert len(set(picked.tolist())) == k


def test_percentiles_are_selective_backprops_on_fixed_numbers():
    history = [1.0, 2.0, 2.0, 3.0]
    # scipy.stats.percentileofscore(history, v, kind="rank") / 100
    expected = [0.0, 0.25, 0.625, 0.75, 1.0, 1.0]
    np.testing.assert_allclose(percentiles([0.5, 1, 2, 2.5, 3, 9], history), expected)
    np.testing.assert_allclose(keep_probabilities([0.25, 0.5, 1.0], 0.9, 2.0), [0.0625, 0.25, 1.0])


def test_percentiles_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    history = np.random.default_rng(0).integers(0, 9, 50).astype(float)
    values = np.arange(-1.0, 10.0, 0.5)
    expected = stats.percentileofscore(history, values, kind="rank") / 100
    np.testing.assert_allclose(percentiles(values, history), expected)


@given(ratio=st.floats(0.05, 1), n=st.integers(20, 200), floor=st.sampled_from([0.0, 0.01]))
def test_the_exponent_gives_the_wanted_mean(ratio, n, floor):
    shares = (np.arange(n) + 1) / n
    mean = np.maximum(shares ** solve_exponent(shares, ratio, floor), floor).mean()
    assert mean == pytest.approx(max(ratio, (1 + (n - 1) * floor) / n), abs=1e-6)


def test_coins_keep_k_on_average_and_favor_high_scores():
    scores = np.arange(20.0)
    chances = inclusion(lambda u: bernoulli_by_percentile(scores, 8, u), 2000, 20)
    assert chances.sum() == pytest.approx(8, abs=0.3)
    assert chances[-1] == 1
    assert (np.diff(chances) > -0.06).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: softmax_sample([1.0, np.nan], 1, [0.5, 0.5]), "NaN at position 1"),
        (lambda: softmax_sample([1.0], 2, [0.5]), r"k must be in \[0, 1\]"),
        (lambda: chunked_softmax([1.0], 2, [0.5]), r"k must be in \[0, 1\]"),
        (lambda: softmax_sample([1.0], 1, [0.5], temperature=0), "temperature"),
        (lambda: chunked_softmax([1.0], 1, [0.5], chunks=0), "chunks"),
        (lambda: bernoulli_by_percentile([np.nan], 1, [0.5]), "NaN"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
