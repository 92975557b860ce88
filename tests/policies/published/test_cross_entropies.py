"""Policies that read a loss as the probability of the label: cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gstds import Selector
from gstds.common.noise import keyed_uniform
from gstds.policies import make_policy
from gstds.selection.schedules import make_schedule
from tests.policies.views import CONTEXT, N, full_view


def drawn_counts(policy, view, steps):
    counts = np.zeros(N)
    for step in range(steps):
        noise = keyed_uniform(7, step, indices=np.arange(N)).astype(np.float32)
        counts += policy.act(view | {"noise": noise}) > 0
    return counts / steps


def one_of(chances):
    """A batch of which one sample is kept, with these probabilities of the labels when trained."""
    view = full_view(3)
    view["visited"][:] = 1
    view["last_losses"] = -np.log(np.asarray(chances)).astype(np.float32)
    return view


@pytest.mark.parametrize(("a", "floor"), [(0.0, 0.1), (1.0, 0.01)])
def test_difficulty_draws_one_with_odds_floor_plus_p_to_the_a_times_the_error(a, floor):
    chances = np.linspace(0.001, 0.999, N)
    one = make_schedule("constant", keep=1 / N)
    policy = make_policy("difficulty", schedule=one, a=a, floor=floor)
    policy.reset(0, CONTEXT)
    odds = np.array([floor + p**a * (1 - p) for p in chances])
    found = drawn_counts(policy, one_of(chances), 1200)
    np.testing.assert_allclose(found, odds / odds.sum(), atol=0.045)


def test_difficulty_takes_the_unseen_first_whatever_they_show():
    view = one_of(np.full(N, 0.5))
    view["visited"][[2, 9]] = 0
    policy = make_policy("difficulty", schedule=make_schedule("constant", keep=0.25), floor=0)
    policy.reset(0, CONTEXT)
    shares = drawn_counts(policy, view, 60)
    assert (shares[[2, 9]] == 1).all()
    assert shares.sum() == pytest.approx(4)


@pytest.mark.parametrize("threshold", [0.2, 0.4])
def test_pdd_keeps_what_the_release_would_and_all_of_it_in_the_last_epoch(threshold):
    view = full_view(4, valid=N - 2, progress=0.3)
    logits = np.log(view["learner_probabilities"])
    policy = make_policy("pdd", threshold=threshold)
    policy.reset(0, CONTEXT)
    wanted = []
    for row, label in zip(logits, view["labels"].astype(int), strict=True):
        odds = np.exp(row - row.max())
        wanted.append(odds[label] / odds.sum() < threshold)
    wanted[-2:] = [False, False]
    assert 0 < sum(wanted) < N - 2
    assert (policy.act(view) > 0).tolist() == wanted
    for progress, everything in ((0.89, False), (np.float32(0.9), True)):  # of 10 epochs
        kept = policy.act(view | {"progress": np.array([progress], np.float32)})
        assert (kept[:-2] == 1).all() == everything
        assert not kept[-2:].any()


def test_pdd_takes_no_update_where_everything_is_known():
    view = full_view(4, progress=0.3)
    view["learner_probabilities"] = np.eye(4, dtype=np.float32)[view["labels"].astype(int)]
    policy = make_policy("pdd")
    policy.reset(0, CONTEXT)
    assert not policy.act(view).any()


def test_stale_pdd_goes_by_the_last_loss_and_brings_back_what_is_old_or_was_never_seen():
    view = one_of([0.9] * 8 + [0.1] * 8) | {"progress": np.array([0.6], np.float32)}
    view["age"][:] = 0.1
    view["visited"][0], view["age"][1] = 0, 0.3
    policy = make_policy("stale-pdd", refresh=3)
    policy.reset(0, CONTEXT)
    assert np.flatnonzero(policy.act(view)).tolist() == [0, 1, *range(8, 16)]


def test_a_loss_that_is_no_cross_entropy_is_refused_before_the_first_batch():
    chooser = Selector("difficulty", None, 10, num_samples=64)
    with pytest.raises(ValueError, match=r"'difficulty' takes a loss.* num_classes is 1; pass"):
        chooser.select(np.arange(16))
