from __future__ import annotations

import numpy as np
import pytest

from gstds.store.compression import Compression, fit_basis, parse_compression, project


def rows_of_rank(rank, count=60, dim=20):
    rng = np.random.default_rng(1)
    values = rng.random((count, rank)) @ rng.random((rank, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, Compression()),
        ("int8", Compression(dtype="int8")),
        ("pca-128", Compression("pca", 128)),
        ("random-7-int8", Compression("random", 7, "int8")),
    ],
)
def test_names_of_compressions(text, wanted):
    assert parse_compression(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "pca", "pca-0", "pca-", "pca-8int8", "-int8", "int4", "svd-9"]
)
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match=r"compress must be int8, pca-DIM.*got"):
        parse_compression(text)
    with pytest.raises(TypeError, match="compress"):
        parse_compression(8)


def test_principal_directions_keep_every_cosine_of_rows_of_that_rank():
    rows = rows_of_rank(4)
    short = project(rows, fit_basis(Compression("pca", 4), 20, rows))
    assert short.shape == (60, 4)
    np.testing.assert_allclose(short @ short.T, rows @ rows.T, atol=1e-5)
    fewer = project(rows, fit_basis(Compression("pca", 3), 20, rows))
    assert np.abs(fewer @ fewer.T - rows @ rows.T).max() > 1e-4


def test_principal_directions_are_those_of_inner_products_not_of_variances():
    # All rows share one large entry: centering would call that direction void.
    rows = rows_of_rank(5)
    rows[:, 0] += 3
    basis = fit_basis(Compression("pca", 1), 20, rows)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert (np.abs(unit @ basis)[:, 0] > 0.95).all()


def test_principal_directions_do_not_depend_on_the_order_of_the_sample():
    rows = rows_of_rank(20)
    one = fit_basis(Compression("pca", 5), 20, rows)
    other = fit_basis(Compression("pca", 5), 20, rows[::-1])
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_random_directions_keep_inner_products_on_average():
    rows = rows_of_rank(20, count=40, dim=2000)
    basis = fit_basis(Compression("random", 800), 2000)
    np.testing.assert_array_equal(basis, fit_basis(Compression("random", 800), 2000))
    error = (rows @ basis) @ (rows @ basis).T - rows @ rows.T
    assert np.sqrt(np.mean(error**2)) < 2.5 / np.sqrt(800)
    assert np.abs(error).max() > 1e-4


def test_without_a_projection_rows_stay_what_they_are():
    rows = rows_of_rank(3)
    assert project(rows, fit_basis(Compression(dtype="int8"), 20)) is rows


def test_what_cannot_be_projected_is_refused():
    with pytest.raises(ValueError, match="pca-30 has more dimensions than the reference's 20"):
        Compression("pca", 30).feature_dim(20)
    with pytest.raises(ValueError, match="pca-8 needs at least 8 images, got 5; use random-8"):
        fit_basis(Compression("pca", 8), 20, rows_of_rank(3, count=5))


def test_what_it_costs():
    assert Compression("pca", 8).flops(20) == 2 * 20 * 8
    assert Compression("pca", 8).fit_flops(20, 100) == 2 * 100 * 400 + 9 * 8000
    assert Compression("random", 8).fit_flops(20, 100) == 0
    assert Compression(dtype="int8").flops(20) == 0
