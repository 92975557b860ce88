import logging
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds.spectral import laplacian as _spectral_rows
from gstds.spectral.fiedler import AUTO_DENSE_MAX, degrees, fiedler_vector, spectral_flops
from gstds.spectral.laplacian import tall_product, wide_product

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
SOLVERS = ("dense", "matrix-free")
LAPLACIANS = ("unnormalized", "normalized")


def affinity_of(features, affinity="cosine"):
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    return {"cosine": cosines, "shift": (1 + cosines) / 2, "clamp": np.maximum(cosines, 0)}[
        affinity
    ]


def oracle(features, laplacian, affinity="cosine"):
    """Laplacian, its eigenvalues on the complement, their vectors, the largest eigenvalue."""
    similarity = affinity_of(features, affinity)
    sums = similarity.sum(axis=1)
    matrix = np.diag(sums) - similarity
    trivial = np.ones(len(sums))
    if laplacian == "normalized":
        matrix = np.eye(len(sums)) - similarity / np.sqrt(np.outer(sums, sums))
        trivial = np.sqrt(sums)
    complement = scipy.linalg.null_space(trivial[None])
    values, weights = scipy.linalg.eigh(complement.T @ matrix @ complement)
    return matrix, values, complement @ weights


def uniform(rng, count, dimension):
    return rng.random((count, dimension))


def rectified(rng, count, dimension):
    return np.maximum(rng.standard_normal((count, dimension)), 0) + 1e-3


def clustered(rng, count, dimension):
    centers = np.maximum(rng.standard_normal((10, dimension)), 0)
    noise = 0.5 * rng.standard_normal((count, dimension))
    return np.maximum(centers[rng.integers(0, 10, count)] + noise, 0) + 1e-3


def outlier(rng, count, dimension):
    features = clustered(rng, count, dimension)
    features[count // 2] = np.maximum(rng.standard_normal(dimension) - 1.5, 0) + 1e-3
    return features


def digits(rng, count, dimension):
    from sklearn.datasets import load_digits

    images = load_digits().data
    return images[rng.choice(len(images), count, replace=count > len(images))]


def signed(rng, count, dimension):
    return rng.standard_normal((count, dimension))


KINDS = {f.__name__: f for f in (uniform, rectified, clustered, outlier, digits, signed)}


def assert_accurate(spectrum, features, laplacian, affinity):
    matrix, values, vectors = oracle(features, laplacian, affinity)
    largest = values[-1]
    scores = np.asarray(spectrum.scores, dtype=np.float64)
    assert np.linalg.norm(scores) == pytest.approx(1, abs=1e-5)
    assert spectrum.status in ("converged", "degenerate")
    assert spectrum.lambda2 == pytest.approx(values[0], abs=1e-5 * largest)
    assert spectrum.lambda3 == pytest.approx(values[1], abs=1e-5 * largest)
    if (values[1] - values[0]) / largest > 1e-3:
        assert abs(scores @ vectors[:, 0]) >= 0.9999
        return
    quotient = scores @ matrix @ scores
    assert abs(quotient - values[0]) <= 1e-5 * largest
    assert np.linalg.norm(matrix @ scores - quotient * scores) <= 1e-5 * largest


@pytest.mark.parametrize("laplacian", LAPLACIANS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [3, 4, 33, 128, 300])
def test_agrees_with_lapack_in_float64(count, kind, solver, laplacian):
    rng = np.random.default_rng(count)
    features = KINDS[kind](rng, count, 96).astype(np.float32)
    affinity = "shift" if kind == "signed" else "cosine"
    spectrum = fiedler_vector(features, laplacian=laplacian, solver=solver, sign="raw")
    assert_accurate(spectrum, features, laplacian, affinity)


@pytest.mark.parametrize("laplacian", LAPLACIANS)
@pytest.mark.parametrize("kind", ["clustered", "digits"])
@pytest.mark.parametrize(("count", "dimension"), [(AUTO_DENSE_MAX, 64), (AUTO_DENSE_MAX + 1, 1280)])
def test_agrees_with_lapack_around_the_crossing_point(count, dimension, kind, laplacian):
    features = KINDS[kind](np.random.default_rng(0), count, dimension).astype(np.float32)
    for solver in ("auto", *SOLVERS):
        spectrum = fiedler_vector(features, laplacian=laplacian, solver=solver, sign="raw")
        assert_accurate(spectrum, features, laplacian, "cosine")


@pytest.mark.slow
@pytest.mark.parametrize("laplacian", LAPLACIANS)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_lapack_at_2048(kind, laplacian):
    features = KINDS[kind](np.random.default_rng(1), 2048, 512).astype(np.float32)
    spectrum = fiedler_vector(features, laplacian=laplacian, sign="raw")
    assert_accurate(spectrum, features, laplacian, "shift" if kind == "signed" else "cosine")


@pytest.mark.parametrize("laplacian", LAPLACIANS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_float64_input_gives_float64_scores(solver, laplacian):
    features = clustered(np.random.default_rng(0), 60, 40)
    spectrum = fiedler_vector(features, laplacian=laplacian, solver=solver, tolerance=1e-10)
    assert spectrum.scores.dtype == np.float64
    assert spectrum.lambda2 == pytest.approx(oracle(features, laplacian)[1][0], rel=1e-9)


@pytest.mark.parametrize("laplacian", LAPLACIANS)
def test_clamp_agrees_densely_and_blockwise(laplacian, monkeypatch):
    features = signed(np.random.default_rng(2), 150, 20)
    for limit in (4096, 10):
        monkeypatch.setattr("gstds.spectral.fiedler.CLAMPED_DENSE_MAX", limit)
        spectrum = fiedler_vector(features, laplacian=laplacian, affinity="clamp", sign="raw")
        assert (spectrum.iterations > 0) == (limit == 10)
        assert_accurate(spectrum, features, laplacian, "clamp")


@pytest.mark.parametrize("solver", SOLVERS)
def test_cosine_takes_signed_features_as_they_are(solver):
    features = signed(np.random.default_rng(2), 50, 20)
    values = oracle(features, "unnormalized")[1]
    spectrum = fiedler_vector(features, affinity="cosine", solver=solver, sign="raw")
    assert spectrum.lambda2 == pytest.approx(values[0], abs=1e-6 * values[-1])
    assert values[0] < 0
    assert spectrum.status == "indefinite"
    assert fiedler_vector(features, solver=solver).status == "converged"  # shifted
    with pytest.raises(ValueError, match="positive degrees"):
        fiedler_vector(features, affinity="cosine", laplacian="normalized", solver=solver)


def test_random_walk_embedding_is_scikit_learns():
    from sklearn.manifold import spectral_embedding

    features = digits(np.random.default_rng(3), 200, 64)
    similarity = affinity_of(features)
    sums = similarity.sum(axis=1)
    # scikit-learn drops the diagonal, so its Laplacian D' - S' equals D - S with other degrees;
    # its vectors of (D', L) are those of this package for the affinity without diagonal.
    expected = spectral_embedding(
        similarity, n_components=1, drop_first=True, eigen_solver="arpack", random_state=0
    )[:, 0]
    off = similarity - np.diag(np.diag(similarity))
    _, vectors = scipy.linalg.eigh(np.diag(off.sum(axis=1)) - off, np.diag(off.sum(axis=1)))
    oracle_walk = vectors[:, 1]
    assert abs(expected @ oracle_walk) == pytest.approx(
        np.linalg.norm(expected) * np.linalg.norm(oracle_walk), rel=1e-6
    )
    _, vectors = scipy.linalg.eigh(np.diag(sums) - similarity, np.diag(sums))
    walk = vectors[:, 1] / np.linalg.norm(vectors[:, 1])
    for solver in SOLVERS:
        spectrum = fiedler_vector(
            features, laplacian="normalized", embedding="random-walk", solver=solver, sign="raw"
        )
        assert abs(spectrum.scores @ walk) >= 0.9999


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_in_torch_out_on_the_same_device(dtype, solver, device):
    features = torch.from_numpy(outlier(np.random.default_rng(4), 70, 30)).to(device, dtype)
    spectrum = fiedler_vector(features, solver=solver, sign="raw")
    assert spectrum.scores.device == features.device
    assert spectrum.scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = features.double().cpu().numpy()
    vector = oracle(exact, "unnormalized")[2][:, 0]
    assert abs(spectrum.scores.double().cpu().numpy() @ vector) >= 0.9999


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_stack_of_batches_is_each_batch_alone(solver, device):
    rng = np.random.default_rng(5)
    stack = torch.from_numpy(np.stack([clustered(rng, 40, 20) for _ in range(3)])).to(device)
    together = fiedler_vector(stack, solver=solver)
    assert together.scores.shape == (3, 40)
    assert together.status == ("converged",) * 3
    for b in range(3):
        alone = fiedler_vector(stack[b], solver=solver)
        torch.testing.assert_close(together.scores[b], alone.scores)
        assert float(together.lambda2[b]) == pytest.approx(alone.lambda2)
        assert float(together.eigengap[b]) == pytest.approx(alone.eigengap)
        assert float(together.effective_nodes[b]) == pytest.approx(alone.effective_nodes)
    arrays = fiedler_vector(stack.cpu().numpy(), solver=solver)
    assert isinstance(arrays.scores, np.ndarray)
    assert isinstance(arrays.lambda2, np.ndarray)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    dimension=st.integers(1, 12),
    kind=st.sampled_from(["uniform", "clustered", "signed"]),
    laplacian=st.sampled_from(LAPLACIANS),
    solver=st.sampled_from(SOLVERS),
    sign=st.sampled_from(["abs", "skew", "raw"]),
)
def test_invariants(seed, count, dimension, kind, laplacian, solver, sign):
    features = KINDS[kind](np.random.default_rng(seed), count, dimension)
    options = {"laplacian": laplacian, "solver": solver, "sign": sign}
    spectrum = fiedler_vector(features, **options)
    scores = spectrum.scores
    assert scores.shape == (count,)
    assert np.isfinite(scores).all()
    assert np.linalg.norm(scores) == pytest.approx(1)
    assert 0 < spectrum.effective_nodes <= 1 + 1e-12
    assert 0 <= spectrum.eigengap <= 1
    assert spectrum.lambda2 <= spectrum.lambda3 <= spectrum.lambda_max * (1 + 1e-9) + 1e-12
    np.testing.assert_array_equal(scores, fiedler_vector(features, **options).scores)
    if sign == "abs":
        assert (scores >= 0).all()
    if sign == "skew":
        assert (scores**3).sum() > -1e-5


@pytest.mark.parametrize("laplacian", LAPLACIANS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sign", ["abs", "skew", "raw"])
@pytest.mark.parametrize("kind", ["clustered", "orthogonal", "twins"])
def test_reordering_rows_reorders_scores(kind, sign, solver, laplacian):
    rng = np.random.default_rng(6)
    if kind == "orthogonal":
        features = np.kron(np.eye(4), np.ones((6, 1)))
    elif kind == "twins":
        features = np.repeat(np.eye(5) + 0.1, 3, axis=0)
    else:
        features = clustered(rng, 48, 30)
    order = rng.permutation(len(features))
    options = {"laplacian": laplacian, "solver": solver, "sign": sign}
    scores = fiedler_vector(features, **options).scores
    moved = fiedler_vector(features[order], **options).scores
    np.testing.assert_allclose(moved, scores[order], atol=2e-4)


@pytest.mark.parametrize("laplacian", LAPLACIANS)
def test_both_solvers_agree_on_degenerate_batches(laplacian):
    batches = {
        "disconnected": np.kron(np.eye(4), np.ones((6, 1))),
        "degenerate": np.repeat(np.eye(5) + 0.1, 3, axis=0),
    }
    for status, features in batches.items():
        dense, free = (
            fiedler_vector(features, laplacian=laplacian, solver=s, sign="raw") for s in SOLVERS
        )
        assert dense.status == free.status == status
        assert abs(dense.scores @ free.scores) >= 0.9999


@pytest.mark.parametrize("laplacian", LAPLACIANS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_two_components_are_told_apart(solver, laplacian):
    features = np.kron(np.eye(2), np.ones((5, 1)))
    spectrum = fiedler_vector(features, laplacian=laplacian, solver=solver, sign="raw")
    assert spectrum.status == "disconnected"
    assert abs(spectrum.lambda2) < 1e-6
    np.testing.assert_allclose(np.abs(spectrum.scores), 10**-0.5, atol=1e-6)
    assert spectrum.scores[0] * spectrum.scores[9] < 0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [3, 8, 100])
def test_identical_rows_get_equal_shares(count, solver):
    spectrum = fiedler_vector(np.ones((count, 4)), solver=solver, sign="raw")
    assert spectrum.status == "degenerate"
    assert spectrum.lambda2 == pytest.approx(count)
    expected = np.where(np.arange(count) % 2, -1.0, 1.0)
    expected -= expected.mean()
    expected /= np.linalg.norm(expected)
    assert abs(spectrum.scores @ expected) >= 0.9999


def test_one_and_two_samples():
    alone = fiedler_vector(np.array([[3.0, 4.0]]))
    assert alone.scores.tolist() == [1.0]
    assert (alone.status, alone.lambda2, alone.lambda3, alone.eigengap) == ("trivial", 0, 0, 0)
    pair = fiedler_vector(np.array([[1.0, 0.0], [1.0, 1.0]]), solver="matrix-free")
    np.testing.assert_allclose(pair.scores, 2**-0.5)
    assert pair.lambda2 == pytest.approx(2 * 2**-0.5)
    assert pair.lambda3 == pair.lambda2


def test_the_worst_outlier_has_the_highest_score():
    features = outlier(np.random.default_rng(7), 128, 200)
    scores = fiedler_vector(features).scores
    assert scores.argmax() == 64 == degrees(features).argmin()


@pytest.mark.parametrize("affinity", ["cosine", "shift", "clamp"])
def test_degrees_are_row_sums(affinity):
    features = signed(np.random.default_rng(8), 50, 10)
    expected = affinity_of(features, affinity).sum(axis=1)
    np.testing.assert_allclose(degrees(features, affinity), expected, rtol=1e-9, atol=1e-9)
    tensor = degrees(torch.from_numpy(features).float(), affinity)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_convergence_is_a_status(solver):
    features = rectified(np.random.default_rng(9), 200, 50)
    spectrum = fiedler_vector(features, solver=solver, max_iterations=0)
    assert spectrum.status == ("converged" if solver == "dense" else "not-converged")
    assert np.linalg.norm(spectrum.scores) == pytest.approx(1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_row_lengths_do_not_matter(solver, scale):
    features = clustered(np.random.default_rng(10), 30, 20).astype(np.float32)
    lengths = np.geomspace(1, scale, 30, dtype=np.float32)[:, None]
    expected = fiedler_vector(features, solver=solver).scores
    scaled = fiedler_vector(features * lengths, solver=solver).scores
    np.testing.assert_allclose(scaled, expected, atol=1e-4)


def test_input_is_left_alone_and_may_be_read_only():
    features = signed(np.random.default_rng(11), 30, 20)
    before = features.copy()
    features.flags.writeable = False
    for solver in SOLVERS:
        fiedler_vector(features, solver=solver)
    np.testing.assert_array_equal(features, before)


def test_negative_features_are_shifted_and_it_is_said_once(caplog, monkeypatch):
    _spectral_rows.notice_shift.cache_clear()
    features = signed(np.random.default_rng(12), 20, 5)
    with caplog.at_level(logging.INFO, logger="gstds.spectral"):
        automatic = fiedler_vector(features)
        fiedler_vector(features)
    assert len(caplog.records) == 1
    np.testing.assert_array_equal(
        automatic.scores, fiedler_vector(features, affinity="shift").scores
    )


def test_affinity_error_names_the_pair():
    with pytest.raises(ValueError, match=r"rows 0 and 2 have the negative cosine -1"):
        fiedler_vector(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), affinity="error")
    harmless = -np.ones((4, 3)) - np.eye(4, 3)
    assert fiedler_vector(harmless, affinity="error").status


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, r"NaN or infinity \(rows 1, 3\)"), (np.inf, "NaN or infinity"), (0.0, "only zeros")],
)
def test_rows_without_cosine_are_named(value, message, solver):
    features = np.ones((5, 3))
    features[[1, 3]] = value
    with pytest.raises(ValueError, match=message):
        fiedler_vector(features, solver=solver)
    with pytest.raises(ValueError, match=message):
        fiedler_vector(features[None], solver=solver)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"laplacian": "normalised"}, "did you mean 'normalized'"),
        ({"solver": "lanczos"}, "solver"),
        ({"sign": "up"}, "sign"),
        ({"affinity": "clmp"}, "did you mean 'clamp'"),
        ({"embedding": "x"}, "embedding"),
        ({"embedding": "random-walk"}, "laplacian='normalized'"),
        ({"affinity": "clamp", "solver": "matrix-free"}, "no low-rank form"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": -1}, "max_iterations"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fiedler_vector(np.ones((4, 2)), **options)


@pytest.mark.parametrize("shape", [(4,), (0, 3), (3, 0), (0, 3, 3), (1, 2, 3, 4)])
def test_bad_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"shape \(N, D\)"):
        fiedler_vector(np.ones(shape))


def test_bad_types_are_named():
    with pytest.raises(TypeError, match="numpy array or a torch tensor"):
        fiedler_vector([[1.0, 2.0]])
    with pytest.raises(TypeError, match="real numbers"):
        fiedler_vector(np.ones((2, 2), dtype=complex))
    assert fiedler_vector(np.eye(3, dtype=np.uint8) + np.uint8(1)).scores.dtype == np.float64


def test_flops_follow_their_formula():
    assert spectral_flops(1, 9) == 0
    assert spectral_flops(100, 10) == 2000 + 101_000 + 4 / 3 * 1e6 + 80_000
    assert spectral_flops(AUTO_DENSE_MAX + 1, 8) == spectral_flops(
        AUTO_DENSE_MAX + 1, 8, solver="matrix-free", iterations=16
    )
    one, two = (spectral_flops(1000, 64, solver="matrix-free", iterations=i) for i in (10, 11))
    assert two - one == 2 * 4 * 1000 * 64
    with pytest.raises(ValueError, match="n must be at least 0"):
        spectral_flops(-1, 3)


_BIG = """
import resource, sys
import numpy as np
from gstds.spectral.laplacian import tall_product, wide_product
from gstds.spectral.fiedler import fiedler_vector
rng = np.random.default_rng(0)
features = rng.random((65_536, 512), dtype=np.float32)
spectrum = fiedler_vector(features, laplacian=sys.argv[1])
assert spectrum.status in ("converged", "degenerate"), spectrum.status
assert spectrum.residual <= 1e-5 * spectrum.lambda_max
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("laplacian", LAPLACIANS)
def test_65536_samples_fit_in_4_gigabytes(laplacian):
    done = subprocess.run(
        [sys.executable, "-c", _BIG, laplacian], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 4


@pytest.mark.parametrize("rows", [1, 100, 4095, 4096, 5000])
@pytest.mark.parametrize("few", [1, 2, 4, 6])
def test_the_fast_products_are_products(rows, few):
    rng = np.random.default_rng(rows)
    tall = torch.from_numpy(rng.normal(size=(rows, 30)))[:, 3:27]  # not contiguous
    left = torch.from_numpy(rng.normal(size=(few, rows)))
    right = torch.from_numpy(rng.normal(size=(few, 24)))
    torch.testing.assert_close(wide_product(left, tall), left @ tall)
    torch.testing.assert_close(tall_product(tall, right), tall @ right.T)


@pytest.mark.parametrize("solver", ["matrix-free", "dense"])
def test_rows_that_cancel_have_their_indefinite_vector(solver):
    rows = np.array([[-1, 0]] * 3 + [[1, 0]] * 3, dtype=np.float32)
    found = fiedler_vector(rows, affinity="cosine", solver=solver, sign="raw")
    assert found.status == "indefinite"
    assert float(found.lambda2) == pytest.approx(-6, abs=1e-5)
    assert np.abs(found.scores @ rows[:, 0]) == pytest.approx(6**0.5, abs=1e-5)
