from __future__ import annotations

import numpy as np
import pytest

from gstds.selection.weights import divbs, greedy_orthogonal, k_center, last_layer_kernel


def factors(seed, n=12, classes=3, width=4):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), n)
    residuals = probabilities - np.eye(classes)[rng.integers(0, classes, n)]
    return residuals, rng.random((n, width)), rng.random(n)


def gradients(residuals, embeddings):
    return np.einsum("nc,nh->nch", residuals, embeddings).reshape(len(residuals), -1)


def released_odds(rows):
    """The release's odds of each ordered pair, by explicit gradients: draw, deflate, draw."""
    n, mean = len(rows), rows.mean(axis=0)
    first = np.abs(rows @ mean)
    odds = np.zeros((n, n))
    for i in range(n):
        unit = rows[i] / np.linalg.norm(rows[i])
        second = np.abs(rows @ (mean - (unit @ mean) * unit))
        second[i] = 0.0  # but for rounding it is
        odds[i] = first[i] / first.sum() * second / second.sum()
    return odds


def test_divbs_draws_pairs_with_the_releases_odds():
    residuals, embeddings, _ = factors(1, n=5)
    rows = gradients(residuals, embeddings)
    kernel = last_layer_kernel(residuals, embeddings)
    np.testing.assert_allclose(kernel, rows @ rows.T, atol=1e-12)
    odds, rng, found, draws = released_odds(rows), np.random.default_rng(0), np.zeros((5, 5)), 1500
    for _ in range(draws):
        first, second = greedy_orthogonal(kernel, 2, rng.random(5))
        found[first, second] += 1 / draws
    assert odds.max() > 2.5 * np.median(odds[odds > 0])  # not nearly uniform
    assert (np.abs(found - odds) < 4 * np.sqrt(odds * (1 - odds) / draws) + 1e-9).all()


@pytest.mark.parametrize("seed", range(3))
def test_divbs_never_takes_what_lies_in_the_span_while_something_is_left(seed):
    residuals, embeddings, noise = factors(seed)
    rows = gradients(residuals, embeddings)  # three residuals sum to zero: 2 * 4 dimensions
    first = greedy_orthogonal(last_layer_kernel(residuals, embeddings), 12, noise)
    assert np.linalg.matrix_rank(rows[first[:8]]) == 8
    assert sorted(first) == list(range(12))
    np.testing.assert_array_equal(divbs(residuals, embeddings, 8, noise), np.sort(first[:8]))


def test_divbs_keeps_one_of_several_copies_first_and_fills_up_when_the_span_is_spent():
    residuals, embeddings, noise = factors(0, n=4)
    residuals, embeddings = np.repeat(residuals, 3, axis=0), np.repeat(embeddings, 3, axis=0)
    first = greedy_orthogonal(last_layer_kernel(residuals, embeddings), 4, np.tile(noise, 3))
    assert sorted(i // 3 for i in first) == [0, 1, 2, 3]
    assert len(divbs(residuals, embeddings, 12, np.tile(noise, 3))) == 12


def test_zero_gradients_have_a_result():
    assert len(divbs(np.zeros((5, 3)), np.ones((5, 2)), 3, np.linspace(0, 0.9, 5))) == 3


def test_k_center_by_hand():
    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    noise = np.array([0.1, 0.2, 0.3, 0.4])
    # the mean is 3.25: 2 is nearest, then 10, then 0
    np.testing.assert_array_equal(k_center(points, 1, noise), [2])
    np.testing.assert_array_equal(k_center(points, 2, noise), [2, 3])
    np.testing.assert_array_equal(k_center(points, 3, noise), [0, 2, 3])


def one_distance_at_a_time(rows, k, noise):
    def highest(values):
        tied = np.flatnonzero(values >= values.max() - 1e-9 * abs(values.max()))
        return int(tied[np.argmin(noise[tied])])

    picked = [highest(-((rows - rows.mean(axis=0)) ** 2).sum(axis=1))]
    while len(picked) < k:
        near = ((rows[:, None] - rows[picked]) ** 2).sum(axis=2).min(axis=1)
        near[picked] = -1.0
        picked.append(highest(near))
    return np.sort(picked)


@pytest.mark.parametrize("seed", range(6))
def test_k_center_by_one_product_picks_as_one_distance_at_a_time_does(seed):
    rng = np.random.default_rng(seed)
    rows = np.abs(rng.standard_normal((67, 77))).astype(np.float32).astype(np.float64)
    rows += 1000.0 * (seed % 2)  # far from the origin, where squares cancel
    rows[57:] = rows[:10]  # copies: their distance is zero, not the product's rounding
    noise = rng.random(67)
    for k in (1, 7, 62, 67):
        expected = one_distance_at_a_time(rows, k, noise)
        np.testing.assert_array_equal(k_center(rows, k, noise), expected)


def test_k_center_covers_within_twice_the_best():
    rng = np.random.default_rng(3)
    points = rng.random((10, 2))

    def radius(chosen):
        chosen = list(chosen)
        return np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1).max()

    import itertools

    best = min(radius(c) for c in itertools.combinations(range(10), 3))
    assert radius(k_center(points, 3, rng.random(10))) <= 2 * best


@pytest.mark.parametrize("seed", range(3))
def test_another_order_of_the_batch_gives_the_same_samples_with_copies_too(seed):
    residuals, embeddings, noise = factors(seed, n=10)
    residuals[5:], embeddings[5:] = residuals[:5], embeddings[:5]
    order = np.random.default_rng(seed).permutation(10)
    for pick in (
        lambda o: divbs(residuals[o], embeddings[o], 6, noise[o]),
        lambda o: k_center(embeddings[o], 6, noise[o]),
    ):
        kept = np.zeros(10)
        kept[pick(np.arange(10))] = 1
        again = np.zeros(10)
        again[pick(order)] = 1
        np.testing.assert_array_equal(again, kept[order])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_center(np.ones((3, 2)), 4, np.ones(3)), r"k must be in \[0, 3\]"),
        (lambda: k_center(np.full((3, 2), np.nan), 1, np.ones(3)), "finite"),
        (lambda: greedy_orthogonal(np.eye(3), 4, np.ones(3)), r"k must be in \[0, 3\]"),
        (lambda: greedy_orthogonal(np.full((3, 3), np.nan), 1, np.ones(3)), "finite"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
