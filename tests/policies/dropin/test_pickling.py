"""What a spawned worker or a deep copy gets answers as the original."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from gstds.policies import Selector, make_policy
from gstds.policies.around import Sharded
from gstds.selection.pickers import PICKERS, RATIO_PICKERS, SCORES, make_picker, make_score
from gstds.store.feature_store import build_store
from tests.policies.settings import CONTEXT, SETTINGS, make, observation
from tests.policies.views import full_view

WITHOUT_SCORE = ("divbs", "k-center", "uniform")


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


COPIES = [through_pickle, copy.deepcopy]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_copy_of_a_policy_answers_as_the_policy(name, copied):
    policy = make(name)
    policy.act(observation(policy))
    twin = copied(policy)
    assert twin.needs == policy.needs
    assert twin.step_flops(16, 4, CONTEXT) == policy.step_flops(16, 4, CONTEXT)
    for seed, progress in ((1, 0.1), (2, 0.5), (3, 0.9)):
        view = observation(policy, seed, progress=progress)
        np.testing.assert_array_equal(twin.act(view), policy.act(view))


def test_a_copy_of_a_sharded_policy_answers_as_it():
    policy = Sharded([make("gstds"), make("gstds")])
    view = observation(policy)
    np.testing.assert_array_equal(through_pickle(policy).act(view), policy.act(view))


@pytest.mark.parametrize("score", [*sorted(SCORES), "abs", "skew", "raw"])
@pytest.mark.parametrize("name", sorted(PICKERS))
def test_a_copy_of_a_picker_picks_as_the_picker(name, score):
    picker = make_picker(name, **({} if name in WITHOUT_SCORE else {"score": score}))
    view = full_view(4)
    twin = through_pickle(picker)
    noise = np.asarray(view["noise"])
    np.testing.assert_array_equal(twin(view, 5, noise), picker(view, 5, noise))
    assert twin.flops(16, 5, CONTEXT) == picker.flops(16, 5, CONTEXT)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_a_copy_of_a_score_scores_as_the_score(name):
    score, view = make_score(name), full_view(5)
    np.testing.assert_array_equal(through_pickle(score)(view), score(view))


def test_an_agents_pickers_can_be_copied():
    assert through_pickle(RATIO_PICKERS) == RATIO_PICKERS


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_a_selector_selects_as_the_selector(tmp_path, copied):
    features = np.random.default_rng(0).random((60, 8), np.float32)
    store = build_store(
        tmp_path,
        rows=60,
        dim=8,
        fingerprint="x",
        backbone={"name": "x"},
        compute=lambda start, stop: features[start:stop],
    )
    options = {"reference_losses": np.linspace(0, 2, 60), "labels": np.arange(60) % 4}
    selector = Selector(make_policy("gstds"), store, 20, **options)
    selector.select(np.arange(12))
    twin = copied(selector)
    for mine, its in zip(
        selector.select(np.arange(12, 24)), twin.select(np.arange(12, 24)), strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), its.numpy())
