"""Never seen is a state; losses are kept as told; a step takes the time of its batch."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstds.observation.memory import SampleMemory

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
STEP = st.lists(st.tuples(st.integers(0, 7), FLOATS), max_size=6)


@given(st.lists(STEP, max_size=8))
def test_means_are_of_the_samples_that_were_told_of_and_exact_at_any_step(steps):
    memory, told, aside, seen = SampleMemory(8, 4), {}, 0, set()
    for step in steps:
        with np.errstate(all="ignore"):
            memory.remember(np.array([i for i, _ in step], int), [loss for _, loss in step], 0.5)
        finite = {i: np.float32(loss) for i, loss in step if np.isfinite(loss)}
        wrong = {i for i, _ in step if i not in finite} if finite else set()
        told = {i: loss for i, loss in told.items() if i not in wrong} | finite
        seen |= {i for i, _ in step}
        aside += sum(not np.isfinite(loss) for _, loss in step)
    mean = np.mean(np.array(list(told.values()), np.float128)) if told else np.log(4)
    biggest = max((abs(float(v)) for v in told.values()), default=1.0)
    assert memory.mean_last_loss == pytest.approx(float(mean), rel=1e-12, abs=1e-12 * biggest)
    shown = memory.shown(np.arange(8))
    others = [told.get(i, np.float32(memory.mean_last_loss)) for i in range(8)]
    least = min((loss for i, loss in enumerate(others) if i in told or i not in seen), default=None)
    for i in range(8):
        set_aside = i in seen and i not in told and least is not None
        assert shown[i] == (least if set_aside else others[i])
    assert memory.set_aside == aside
    assert np.isfinite([memory.train_loss, memory.train_loss_ratio]).all()


def test_a_huge_loss_that_is_told_anew_leaves_no_trace():
    memory = SampleMemory(3, 1)
    memory.remember(np.array([0, 1]), [0.125, 3e38], 0.0)
    memory.remember(np.array([1]), [0.375], 0.1)
    assert memory.mean_last_loss == 0.25


def test_before_any_loss_it_is_a_guess_of_a_classification_and_else_zero():
    for classes, guess in ((10, np.log(10)), (1, 0.0)):
        view = SampleMemory(4, classes).view(np.arange(4), 0.0)
        assert view["last_losses"].tolist() == pytest.approx([guess] * 4)
        assert view["train_loss"] == view["mean_last_loss"] == guess
        assert view["train_loss_ratio"] == 1.0
        assert not view["visited"].any()


@pytest.mark.parametrize(
    ("first", "then", "ratio"),
    [
        ([2.0, 4.0], [1.5], 0.5),
        ([-2.0, -4.0], [-6.0], 0.0),
        ([0.0, 0.0], [2.0], 3.0),
        ([-1.0, 1.0], [2.0], 3.0),
    ],
)
def test_the_ratio_is_to_the_first_mean_and_defined_for_any_sign(first, then, ratio):
    memory = SampleMemory(4, 10)
    memory.remember(np.array([0, 1]), first, 0.0)
    assert memory.train_loss_ratio == 1.0
    memory.remember(np.array([2]), then, 0.1)
    assert memory.train_loss_ratio == pytest.approx(ratio)


def test_a_sample_of_which_no_loss_is_finite_ranks_last_until_one_is():
    memory, three = SampleMemory(4, 1), np.arange(3)
    memory.remember(three, [5.0, np.nan, 2.0], 0.0)
    assert memory.shown(np.array([0, 1])).tolist() == [5.0, 5.0]
    assert memory.shown(np.array([0, 1, 2, 3])).tolist() == [5.0, 2.0, 2.0, 3.5]
    memory.remember(three[:2], [np.inf, 1.0], 0.1)
    assert memory.shown(three).tolist() == [1.0, 1.0, 2.0]
    assert memory.mean_last_loss == 1.5
    memory.remember(three, [np.nan] * 3, 0.2)  # not a sample's fault
    assert memory.shown(three).tolist() == [1.0, 1.0, 2.0]
    memory.remember(three[:1], [9.0], 0.3)
    assert memory.shown(three).tolist() == [9.0, 1.0, 2.0]


def test_of_a_sample_that_is_there_twice_the_last_finite_loss_counts_once():
    memory = SampleMemory(3, 1)
    memory.remember(np.array([1, 2, 1, 1]), [5.0, 7.0, 3.0, np.nan], 0.0)
    assert memory.shown(np.arange(3)).tolist() == [5.0, 3.0, 7.0]
    assert memory.mean_last_loss == 5.0
    assert memory.visits.tolist() == [0, 3, 1]


def test_its_state_goes_through_json_and_arrays_bit_for_bit():
    memory, other = SampleMemory(9, 3), SampleMemory(9, 3)
    rng = np.random.default_rng(0)
    memory.remember(np.arange(6), rng.normal(size=6) * 1e20, 0.1)
    state = memory.state_dict()
    plain = {k: v for k, v in state.items() if not isinstance(v, np.ndarray)}
    other.load_state_dict(state | json.loads(json.dumps(plain)))
    for one in (memory, other):
        one.remember(np.arange(3, 8), np.full(5, 0.3), 0.2)
    assert memory.mean_last_loss == other.mean_last_loss
    assert memory.train_loss_ratio == other.train_loss_ratio


def test_a_step_takes_the_time_of_its_batch():
    """Not of all samples: three thousand times as many may not take ten times as long."""

    def seconds(samples):
        memory, rng = SampleMemory(samples, 10), np.random.default_rng(0)
        batches = [rng.integers(0, samples, 64) for _ in range(200)]
        begun = time.perf_counter()
        for batch in batches:
            memory.remember(batch, np.ones(64), 0.5)
            memory.view(batch, 0.5)
        return time.perf_counter() - begun

    seconds(1000)
    assert seconds(3_000_000) < 10 * min(seconds(1000) for _ in range(3))
