from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstds.selection.schedules import SCHEDULES, Constant, Oscillating, Sigmoid, Step, make_schedule


def test_the_papers_sigmoid_keeps_53_percent_by_steps_and_37_6_by_budget():
    assert Sigmoid().mean_keep() == pytest.approx(0.530, abs=5e-4)
    assert Sigmoid().mean_keep("budget") == pytest.approx(0.376, abs=5e-4)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("unit", ["steps", "budget"])
@pytest.mark.parametrize("keep", [0.25, 0.4, 0.7])
def test_the_solved_schedule_has_the_wanted_mean_by_an_independent_sum(name, unit, keep):
    schedule = make_schedule(name, keep=keep, unit=unit)
    grid = (np.arange(20_000) + 0.5) / 20_000
    ratios = np.array([schedule(p) for p in grid])
    mean = ratios.mean() if unit == "steps" else 1 / (1 / ratios).mean()
    assert mean == pytest.approx(keep, abs=2e-4)
    assert schedule.mean_keep(unit) == pytest.approx(keep, abs=1e-6)


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(0, 1), st.floats(0.19, 0.87), st.booleans())
def test_ratios_stay_in_the_unit_interval(name, progress, keep, by_budget):
    unit = "budget" if by_budget else "steps"
    assert 0 <= make_schedule(name, keep=keep, unit=unit)(progress) <= 1


def test_out_of_reach_names_the_range():
    with pytest.raises(ValueError, match=r"keep must be in \[0\.180, 0\.880\].*got 0\.1"):
        make_schedule("sigmoid", keep=0.1)


def test_shapes():
    assert make_schedule("linear")(0) == pytest.approx(0.18)
    assert make_schedule("linear")(1) == pytest.approx(0.88)
    assert make_schedule("cosine")(0.5) == pytest.approx(0.53)
    assert [Step((0.2, 0.4))(p) for p in (0, 0.49, 0.5, 1)] == [0.2, 0.2, 0.4, 0.4]
    assert [Oscillating(0.1, 0.9, 2)(p) for p in (0, 0.3, 0.6, 1)] == [0.1, 0.9, 0.1, 0.9]
    stairs = [make_schedule("decaying", epochs=4, decay=0.5)(p) for p in (0, 0.3, 0.6, 0.75, 1)]
    assert stairs == [1, 0.5, 0.25, 1, 1]  # everything in the last epoch
    assert make_schedule("decaying")(20.5 / 30) == pytest.approx(0.99**20)
    assert make_schedule("reversed")(0.2) == pytest.approx(Sigmoid()(0.8))
    assert make_schedule("reversed", base="linear")(0) == pytest.approx(0.88)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("sigmod", {}, "did you mean 'sigmoid'"),
        ("sigmoid", {"midpont": 0.2}, "did you mean 'midpoint'"),
        ("linear", {"start": 1.2}, r"linear start must be in \[0, 1\], got 1.2"),
        ("sigmoid", {"steepness": 0}, "sigmoid steepness"),
        ("step", {"levels": ()}, "at least one"),
        ("decaying", {"epochs": 1}, "decaying epochs must be"),
        ("decaying", {"epochs": 4, "keep": 0.4}, r"keep must be in \[0\.500, 1\].*got 0\.4"),
    ],
)
def test_bad_input_is_named(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(name, **parameters)


def test_progress_outside_is_refused():
    with pytest.raises(ValueError, match="progress"):
        Constant(0.5)(1.1)
