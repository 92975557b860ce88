from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gstds.observation.summary import (
    SUMMARY_HIGH,
    SUMMARY_LOW,
    SUMMARY_NAMES,
    RunFacts,
    Trend,
    summarize,
)

FACTS = RunFacts(classes=10, budget_batches=15.0)
UNIT = math.log(10)


def one(value):
    return np.array([value], np.float32)


def view(**changes):
    base = {
        "valid": np.array([1, 1, 1, 0], np.float32),
        "last_losses": np.array([0.0, UNIT, 2 * UNIT, 99], np.float32),
        "visited": np.array([1, 1, 0, 0], np.float32),
        "age": np.array([0.5, 0.25, 0.0, 0], np.float32),
        "reference_losses": np.array([0, 0, UNIT, 0], np.float32),
        "progress": one(0.25),
        "budget_left": one(0.75),
        "keep_ratio": one(0.125),
        "train_loss": one(UNIT),
        "mean_last_loss": one(UNIT / 2),
    }
    return base | changes


def named(summary):
    return dict(zip(SUMMARY_NAMES, summary.tolist(), strict=True))


def test_a_summary_worked_by_hand():
    got = named(summarize(view(), FACTS, Trend(1.5 * UNIT, UNIT / 4)))
    wanted = {
        "progress": 0.25,
        "budget_left": 0.75,
        "budget_batches": 4 / 16,
        "keep_ratio": 0.125,
        "train_loss": 0.5,
        "mean_last_loss": 0.25,
        "train_loss_drop": 0.5,
        "mean_last_loss_drop": -0.25,
        "visited": 2 / 3,
        "mean_age": 0.25,
        "loss_spread": math.sqrt(2 / 3),
        "learnability_low": 0.2,
        "learnability_middle": 1.0,
        "learnability_high": 1.0,
        "eigengap": 0.0,
        "effective_nodes": 0.0,
        "validation_loss": 0.0,
    }
    assert got == pytest.approx(wanted, abs=1e-6)


def test_the_first_decision_has_no_drop_and_an_empty_batch_says_nothing():
    got = named(summarize(view(valid=np.zeros(4, np.float32)), FACTS))
    assert got["train_loss_drop"] == got["mean_last_loss_drop"] == 0.0
    assert got["visited"] == got["loss_spread"] == got["learnability_high"] == 0.0
    assert got["train_loss"] == 0.5


def test_what_is_not_observed_is_zero_and_what_is_enters():
    bare = view()
    del bare["reference_losses"]
    got = named(summarize(bare, FACTS))
    assert got["learnability_low"] == got["learnability_high"] == 0.0
    more = view(eigengap=one(0.5), effective_nodes=one(0.25), validation_loss=one(UNIT))
    got = named(summarize(more, FACTS))
    assert (got["eigengap"], got["effective_nodes"]) == (0.5, 0.25)
    assert got["validation_loss"] == pytest.approx(0.5)


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(
    npst.arrays(np.float32, 4, elements=floats),
    npst.arrays(np.float32, 4, elements=floats),
    st.floats(-1e6, 1e6),
)
def test_every_scalar_stays_in_its_bounds(last, reference, before):
    changed = view(last_losses=last, reference_losses=reference, train_loss=last[:1])
    with np.errstate(all="ignore"):
        summary = summarize(changed, FACTS, Trend(before, before))
    assert summary.dtype == np.float32
    assert summary.shape == SUMMARY_LOW.shape == (len(SUMMARY_NAMES),)
    assert ((summary >= SUMMARY_LOW) & (summary <= SUMMARY_HIGH)).all()


def test_the_order_of_a_batch_does_not_matter():
    order = np.array([2, 3, 0, 1])
    moved = {k: v[order] if len(v) == 4 else v for k, v in view().items()}
    np.testing.assert_allclose(summarize(moved, FACTS), summarize(view(), FACTS), rtol=1e-6)


def test_impossible_facts_are_refused():
    with pytest.raises(ValueError, match="budget_batches"):
        RunFacts(10, 0.0)
    with pytest.raises(ValueError, match="classes"):
        RunFacts(0, 1.0)
