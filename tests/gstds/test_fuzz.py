"""The method under any array, empty, huge, denormal, repeated, NaN: right, or a clear error."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gstds.selection.schedules import SCHEDULES, make_schedule
from gstds.selection.weights import (
    bernoulli_by_percentile,
    chunked_softmax,
    divbs,
    greedy_orthogonal,
    hybrid,
    k_center,
    kept_count,
    loss_weights,
    softmax_sample,
    top_k,
    uniform,
    weighted_sample,
)
from gstds.spectral.fiedler import AFFINITIES, LAPLACIANS, SIGNS, SOLVERS, degrees, fiedler_vector
from tests.counts import counts

SPECIAL = [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-310, -1e-310, 1e-45, 1e308, -1e308, 3.4e38, 1e154]
BROKEN = [float("nan"), float("inf"), -float("inf")]
numbers = st.one_of(st.sampled_from(SPECIAL), st.floats(allow_nan=False, allow_infinity=False))
any_number = st.one_of(numbers, st.sampled_from(BROKEN))
dtypes = st.sampled_from([np.float64, np.float32, np.float16])


@st.composite
def arrays(draw, shape, elements=any_number, dtype=np.float64):
    """Draw an array of ``shape``; often one whose rows repeat."""
    values = draw(npst.arrays(np.float64, shape, elements=elements, fill=numbers))
    if values.shape[0] > 1 and draw(st.booleans()):
        values = values[draw(npst.arrays(np.int64, shape[0], elements=st.integers(0, 1)))]
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def noise_of(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(n)


@st.composite
def feature_arrays(draw):
    shape = draw(st.tuples(st.integers(0, 9), st.integers(0, 5)))
    elements = draw(st.sampled_from([any_number, numbers, st.floats(-1, 1), st.floats(0, 1)]))
    return draw(arrays(shape, elements, draw(dtypes)))


spectral_options = st.fixed_dictionaries(
    {},
    optional={
        "laplacian": st.sampled_from(LAPLACIANS),
        "solver": st.sampled_from(SOLVERS),
        "sign": st.sampled_from(SIGNS),
        "affinity": st.sampled_from(AFFINITIES),
        "max_iterations": st.integers(0, 40),
    },
)
STATUSES = {"converged", "disconnected", "degenerate", "not-converged", "trivial", "indefinite"}


@counts(slow=1000, soak=30_000)
def test_a_fiedler_vector_is_a_unit_vector_or_a_documented_error(cases):
    @settings(max_examples=cases)
    @given(feature_arrays(), spectral_options)
    def check(features, options):
        before = features.copy()
        try:
            spectrum = fiedler_vector(features, **options)
        except ValueError:
            return
        finally:
            np.testing.assert_array_equal(features, before)
        assert spectrum.scores.shape == (len(features),)
        assert spectrum.status in STATUSES
        assert np.isfinite(spectrum.scores).all()
        assert abs(np.linalg.norm(spectrum.scores.astype(np.float64)) - 1) < 5e-3
        assert np.isfinite([spectrum.lambda2, spectrum.lambda3, spectrum.residual]).all()
        again = fiedler_vector(features, **options)
        np.testing.assert_array_equal(again.scores, spectrum.scores)

    check()


@counts(slow=300, soak=10_000)
def test_degrees_are_finite_or_a_documented_error(cases):
    @settings(max_examples=cases)
    @given(feature_arrays(), st.sampled_from(AFFINITIES))
    def check(features, affinity):
        try:
            sums = degrees(features, affinity)
        except ValueError:
            return
        assert sums.shape == (len(features),)
        assert np.isfinite(sums).all()

    check()


PICKERS = {
    "top_k": lambda a, b, k, u: top_k(a, k, u),
    "uniform": lambda a, b, k, u: uniform(k, u),
    "weighted_sample": lambda a, b, k, u: weighted_sample(a, k, u),
    "hybrid": lambda a, b, k, u: hybrid(a, b, k, u),
    "hybrid, proportional": lambda a, b, k, u: hybrid(a, b, k, u, loss_weighting="proportional"),
    "softmax_sample": lambda a, b, k, u: softmax_sample(a, k, u),
    "chunked_softmax": lambda a, b, k, u: chunked_softmax(a, k, u, chunks=3),
    "k_center": lambda a, b, k, u: k_center(np.stack([a, b], 1), k, u),
    "greedy_orthogonal": lambda a, b, k, u: np.sort(greedy_orthogonal(np.outer(a, a), k, u)),
    "divbs": lambda a, b, k, u: divbs(np.stack([a, -a], 1), b[:, None], k, u),
}


@counts(slow=2000, soak=40_000)
def test_a_picker_returns_k_ascending_positions_or_a_documented_error(cases):
    sizes = st.integers(0, 9)

    @settings(max_examples=cases)
    @given(st.data(), sizes, st.sampled_from(sorted(PICKERS)), st.integers(-1, 10))
    def check(data, n, name, k):
        elements = data.draw(st.sampled_from([any_number, numbers, st.floats(0, 10)]))
        a, b = data.draw(arrays((n,), elements)), data.draw(arrays((n,), elements))
        noise = noise_of(n, data.draw(st.integers(0, 3)))
        before = a.copy(), b.copy()
        try:
            with np.errstate(all="ignore"):
                positions = np.asarray(PICKERS[name](a, b, k, noise))
        except ValueError:
            assert k < 0 or k > n or not np.isfinite([*a, *b]).all() or _extreme(a, b), name
            return
        finally:
            np.testing.assert_array_equal([a, b], before)
        assert len(positions) == k
        assert positions.dtype.kind == "i" or k == 0
        assert (np.diff(positions) > 0).all()
        assert k == 0 or (positions[0] >= 0 and positions[-1] < n)

    check()


def _extreme(a: np.ndarray, b: np.ndarray) -> bool:
    """Negative weights are refused by name, and so is what overflows when it is multiplied."""
    values = np.concatenate([a, b])
    return bool((values < 0).any() or (np.abs(values) > 1e75).any())


@counts(slow=300, soak=10_000)
def test_coins_return_ascending_positions_or_a_documented_error(cases):
    @settings(max_examples=cases)
    @given(st.data(), st.integers(0, 9), st.integers(-1, 10))
    def check(data, n, k):
        scores = data.draw(arrays((n,)))
        try:
            positions = bernoulli_by_percentile(scores, k, noise_of(n, 0))
        except ValueError:
            assert k < 0 or k > n or np.isnan(scores).any()
            return
        assert (np.diff(positions) > 0).all()
        assert set(positions) <= set(range(n))

    check()


@counts(slow=300, soak=10_000)
def test_loss_weights_can_be_drawn_by(cases):
    @settings(max_examples=cases)
    @given(st.data(), st.integers(1, 9), st.sampled_from(["inverse", "proportional", "uniform"]))
    def check(data, n, weighting):
        weights = loss_weights(data.draw(arrays((n,), numbers)), weighting)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()
        assert len(weighted_sample(weights, 1, noise_of(n, 0))) == 1

    check()


@counts(slow=300, soak=5000)
def test_a_count_is_in_range_or_a_documented_error(cases):
    @settings(max_examples=cases)
    @given(st.one_of(any_number, st.none(), st.text(max_size=2)), st.integers(0, 2**40))
    def check(ratio, n):
        try:
            count = kept_count(ratio, n)
        except (ValueError, TypeError) as error:
            told = str(error)
        else:
            assert 0 <= count <= n
            assert (count > 0) == (ratio > 0 and n > 0)
            return
        assert "keep_ratio" in told

    check()


PARAMETERS = ["low", "high", "midpoint", "steepness", "start", "end", "ratio", "periods", "levels"]
PARAMETERS += ["decay", "epochs"]
parameter_values = st.one_of(
    any_number,
    st.floats(0, 1),
    st.integers(-3, 2000),
    st.none(),
    st.text(max_size=2),
    st.booleans(),
    st.lists(st.floats(-0.5, 1.5), max_size=4),
)
progresses = st.one_of(st.floats(0, 1), any_number, st.none(), st.text(max_size=2))


@counts(slow=1000, soak=20_000)
def test_a_schedule_stays_within_zero_and_one_or_is_a_documented_error(cases):
    @settings(max_examples=cases)
    @given(
        st.sampled_from(sorted(SCHEDULES)),
        st.dictionaries(st.sampled_from(PARAMETERS), parameter_values, max_size=3),
        st.one_of(st.none(), st.floats(0, 1), any_number, st.text(max_size=2)),
        st.sampled_from(["steps", "budget"]),
        progresses,
    )
    def check(name, parameters, keep, unit, progress):
        fields = SCHEDULES[name].__dataclass_fields__
        known = {k: v for k, v in parameters.items() if k in fields or name == "reversed"}
        try:
            schedule = make_schedule(name, keep=keep, unit=unit, **known)
            ratio = schedule(progress)
        except (ValueError, TypeError):
            return
        assert 0.0 <= ratio <= 1.0
        if keep is not None:
            assert abs(schedule.mean_keep(unit) - keep) < 1e-6

    check()
