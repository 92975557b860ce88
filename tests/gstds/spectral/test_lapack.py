"""The routines that give up Python's lock: scipy's results to the bit, and the lock given up."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import scipy.linalg
import scipy.linalg.blas

from gstds.spectral.solvers import gram_lower, lowest_eigenpairs


def symmetric(n: int) -> np.ndarray:
    values = np.random.default_rng(n).normal(size=(n, n))
    return values + values.T


@pytest.mark.parametrize(("n", "dim"), [(2, 1), (3, 7), (128, 64), (200, 513)])
def test_gram_equals_scipys_to_the_bit(n: int, dim: int) -> None:
    rows = np.random.default_rng(dim).normal(size=(n, dim))
    expected = scipy.linalg.blas.dsyrk(1.0, rows.T, trans=1, lower=1)
    np.testing.assert_array_equal(gram_lower(rows), expected)


@pytest.mark.parametrize(("n", "count"), [(2, 1), (2, 2), (3, 2), (128, 2), (128, 128), (200, 5)])
def test_eigenpairs_equal_scipys_to_the_bit(n: int, count: int) -> None:
    matrix = symmetric(n)
    before = matrix.copy()
    values, vectors = lowest_eigenpairs(matrix, count)
    expected = scipy.linalg.eigh(matrix, subset_by_index=[0, count - 1], driver="evr")
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(vectors, expected[1].T)
    np.testing.assert_array_equal(matrix, before)


def test_too_few_eigenvectors_are_an_error_not_a_wrong_answer() -> None:
    bad = symmetric(40)
    bad[20, 20] = np.nan
    with pytest.raises(np.linalg.LinAlgError, match="of 2 eigenvectors"):
        lowest_eigenpairs(bad, 2)


def test_another_thread_goes_on_meanwhile() -> None:
    """A thread that only counts reaches many counts during one call, not none."""
    matrix = symmetric(900)
    counts, done = [0], threading.Event()

    def count() -> None:
        while not done.is_set():
            counts[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    while not counts[0]:
        time.sleep(0.001)
    lowest_eigenpairs(symmetric(4), 1)
    before = counts[0]
    lowest_eigenpairs(matrix, 900)
    during = counts[0] - before
    done.set()
    thread.join()
    assert during > 100
