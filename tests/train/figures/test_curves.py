from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gstds.train.figures.statistics import cost_to_accuracy, curves, mean_band, pareto_front
from gstds.train.running.kept import reference_system_seconds

CURVE = (np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.7, 0.6]))


def test_cost_to_accuracy_by_hand():
    assert cost_to_accuracy(CURVE, 0.6) == pytest.approx(1.5)
    assert cost_to_accuracy(CURVE, 0.4) == 1.0
    assert cost_to_accuracy(CURVE, 0.7) == 2.0
    assert cost_to_accuracy(CURVE, 0.71) is None


def test_curves_leave_out_what_is_missing_and_sort():
    history = [{"x": 2, "y": 1.0}, {"x": 1, "y": 0.5}, {"x": 3, "y": None}, {"y": 1.0}]
    ((x, y),) = curves([{"history": history}, {"history": []}, {}], "x", "y")
    assert x.tolist() == [1, 2]
    assert y.tolist() == [0.5, 1.0]


def test_a_band_is_the_t_interval_on_common_ground():
    shifted = [(x := np.array([0.0, 1.0, 2.0]), x + up) for up in (0.0, 1.0, 5.0, 3.0)]
    band = mean_band([*shifted, (np.array([1.0, 3.0]), np.array([2.0, 4.0]))])
    assert band.x.tolist() == [1.0, 2.0]
    values = [1.0, 2.0, 6.0, 4.0, 2.0]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert band.mean[0] == pytest.approx(np.mean(values))
    assert band.half_width[0] == pytest.approx((high - low) / 2)
    assert mean_band(shifted).half_width is None  # four seeds are lines
    assert mean_band([]) is None


def test_pareto_front_by_hand():
    points = [(3, 0.9), (1, 0.5), (2, 0.5), (2, 0.8), (4, 0.9), (5, 0.95)]
    assert pareto_front(points) == [1, 3, 0, 5]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_pareto_front_is_what_nothing_beats(points):
    def beaten(point):
        return any(
            cost <= point[0] and accuracy >= point[1] and (cost, accuracy) != point
            for cost, accuracy in points
        )

    expected = {i for i, point in enumerate(points) if not beaten(point)}
    assert set(pareto_front(points)) == expected


def test_reference_system_time_forgets_what_else_the_machine_did():
    counts = np.repeat([10, 20], 50)
    seconds = counts / 100.0
    assert reference_system_seconds(seconds, counts) == pytest.approx(15.0)
    disturbed = seconds.copy()
    disturbed[::7] += 3.0
    assert reference_system_seconds(disturbed, counts) == pytest.approx(15.0)
    order = np.random.default_rng(0).permutation(100)
    assert reference_system_seconds(disturbed[order], counts[order]) == pytest.approx(15.0)
    assert reference_system_seconds(np.array([2.0]), np.array([3])) == 2.0
