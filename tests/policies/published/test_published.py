from __future__ import annotations

import functools

import numpy as np
import pytest

from gstds import policies
from gstds.common.noise import keyed_uniform
from gstds.policies.published.losses.selective_backprop import SelectiveBackprop
from gstds.policies.registry import POLICIES, UNLISTED
from gstds.selection.pickers import PICKERS, SCORES, make_picker, make_score
from gstds.selection.schedules import make_schedule
from gstds.selection.weights import percentiles
from tests.policies.views import CONTEXT, N, full_view

QUARTER = make_schedule("constant", keep=0.25)
STALE = ("stale-big-loss", "stale-jest", "stale-rho-loss", "stale-selective-backprop")


@functools.cache
def made(name, **parameters):
    return policies.make_policy(name, schedule=QUARTER, **parameters)


def kept(name, view, **parameters):
    policy = made(name, **parameters)
    policy.reset(0, CONTEXT)
    return np.flatnonzero(policy.act(view))


def rank(values):
    return np.argsort(np.argsort(values))


def top(values, k=4):
    return sorted(np.argsort(np.asarray(values, np.float64), kind="stable")[-k:])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("rho-loss", lambda v: v["learner_losses"] - v["reference_losses"]),
        ("stale-rho-loss", lambda v: v["last_losses"] - v["reference_losses"]),
        ("big-loss", lambda v: v["learner_losses"]),
        ("stale-big-loss", lambda v: v["last_losses"]),
        ("uncertainty", lambda v: -v["learner_margin"]),
        ("easy-reference", lambda v: -v["reference_losses"]),
        ("lowest-degree", lambda v: -v["degrees"]),
        ("fiedler-boundary", lambda v: -np.abs(v["spectral_scores"])),
    ],
)
def test_the_top_of_the_score_is_kept(name, wanted):
    view = full_view(3)
    view["visited"][:] = 1
    assert kept(name, view).tolist() == top(wanted(view))


@pytest.mark.parametrize("name", STALE)
@pytest.mark.parametrize(("unit", "shift"), [(1.0, 0.0), (1e4, 0.0), (1.0, -50.0)])
def test_what_was_never_trained_on_ranks_first_in_any_unit(name, unit, shift):
    """Three of sixteen are unseen, and show the mean of the others, as the memory has it."""
    view = full_view(3)
    view["visited"] = (np.arange(N) > 2).astype(np.float32)
    view["last_losses"] = (shift + unit * view["last_losses"]).astype(np.float32)
    view["last_losses"][:3] = view["last_losses"][3:].mean()
    counts = np.zeros(N)
    for step in range(200):
        drawn = view | {"noise": keyed_uniform(5, step, indices=np.arange(N)).astype(np.float32)}
        counts[kept(name, drawn)] += 1
    if name in ("stale-big-loss", "stale-rho-loss"):
        assert (counts[:3] == 200).all()
    assert counts[:3].min() > 1.5 * counts[3:].mean()


def test_uncertainty_takes_entropy_too():
    view = full_view(4)
    assert kept("uncertainty", view, measure="entropy").tolist() == top(view["learner_entropy"])


@pytest.mark.parametrize("name", STALE)
def test_a_stale_policy_takes_no_scoring_forward_and_its_fresh_twin_does(name):
    needs = policies.make_policy(name).needs
    assert not any(key.startswith("learner_") for key in needs)
    fresh = policies.make_policy(name.removeprefix("stale-")).needs
    assert "learner_losses" in fresh


def test_jest_draws_the_more_learnable_more_often_and_not_always():
    view = full_view(1)
    score = view["learner_losses"] - view["reference_losses"]
    counts = np.zeros(N)
    for step in range(400):
        drawn = view | {"noise": keyed_uniform(5, step, indices=np.arange(N)).astype(np.float32)}
        counts[kept("jest", drawn)] += 1
    assert counts.sum() == 400 * 4
    assert np.corrcoef(rank(score), rank(counts))[0, 1] > 0.9
    assert counts.max() < 400
    assert counts.min() > 0


def test_divbs_gives_its_picker_residuals_of_the_labels():
    """Of one sample kept, what is kept how often is told by the gains of explicit gradients."""
    view = full_view(2)
    residuals = view["learner_probabilities"] - np.eye(4)[view["labels"].astype(int)]
    rows = np.einsum("nc,nh->nch", residuals, view["learner_embeddings"]).reshape(N, -1)
    odds = np.abs(rows @ rows.sum(0))
    policy = policies.make_policy("divbs", schedule=make_schedule("constant", keep=1 / N))
    counts = np.zeros(N)
    for step in range(1000):
        noise = keyed_uniform(5, step, indices=np.arange(N)).astype(np.float32)
        counts += policy.act(view | {"noise": noise}) > 0
    np.testing.assert_allclose(counts / 1000, odds / odds.sum(), atol=0.05)


def test_k_center_keeps_the_outlier():
    view = full_view(0)
    features = np.zeros((N, 8), np.float32)
    features[:, 0] = 1
    features[5] = [0, 0, 0, 1, 0, 0, 0, 0]
    assert 5 in kept("k-center", view | {"features": features})


# ------------------------------------------------------------------ Selective-Backprop


def transition(view):
    return policies.Transition(view, np.ones_like(view["valid"]), 0.0, view, {})


def test_selective_backprop_flips_coins_with_the_papers_odds():
    policy = policies.make_policy("selective-backprop", beta=2.0)
    policy.reset(0, CONTEXT)
    first, second = full_view(0), full_view(1)
    policy.learn(transition(first))
    history = np.concatenate([first["learner_losses"], second["learner_losses"]])
    odds = percentiles(second["learner_losses"], history) ** 2
    counts = np.zeros(N)
    for step in range(3000):
        noise = keyed_uniform(1, step, indices=np.arange(N)).astype(np.float32)
        counts += policy.act(second | {"noise": noise})
    np.testing.assert_allclose(counts / 3000, odds, atol=0.04)


@pytest.mark.parametrize("name", ["selective-backprop", "stale-selective-backprop"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_selective_backprop_keeps_the_schedules_share_while_losses_fall(name, keep):
    policy = policies.make_policy(name, schedule=make_schedule("constant", keep=keep))
    policy.reset(0, CONTEXT)
    total = 0
    for step in range(150):
        view = full_view(step, valid=64, n=64)
        for key in ("learner_losses", "last_losses"):
            view[key] = view[key] * 0.97**step
        total += int(policy.act(view).sum())
        policy.learn(transition(view))
    drawn = 150 * 64
    assert abs(total - keep * drawn) < 3.3 * np.sqrt(drawn * keep * (1 - keep))


def test_selective_backprop_remembers_the_last_1024_in_the_noises_order():
    view = full_view(0)
    order = np.random.default_rng(0).permutation(N)
    past = []
    for shown in (view, {k: v[order] if len(v) == N else v for k, v in view.items()}):
        policy = SelectiveBackprop(history=10)
        policy.reset(0, CONTEXT)
        policy.learn(transition(shown))
        policy.learn(transition(shown))
        past.append(policy.state_dict()["past"])
    np.testing.assert_array_equal(*past)
    assert len(past[0]) == N
    again = SelectiveBackprop(history=10)
    again.load_state_dict({"past": past[0]})
    np.testing.assert_array_equal(again.act(view), policy.act(view))


def test_windowed_selective_backprop_chooses_where_and_as_composer_does():
    policy = policies.make_policy("windowed-selective-backprop", keep=0.25, interrupt=3)
    policy.reset(0, CONTEXT)
    kept = []
    for step in range(100):
        view = full_view(step, progress=step / 100)
        kept.append(int(policy.act(view).sum()))
        policy.learn(transition(view))
    within = [50 <= t < 90 and (t % 10 + 1) % 3 != 0 for t in range(100)]
    assert kept == [4 if chosen else N for chosen in within]


def test_windowed_selective_backprop_draws_by_composers_odds():
    policy = policies.make_policy("windowed-selective-backprop", keep=1 / N)
    policy.reset(0, CONTEXT)
    view = full_view(3, progress=0.6)
    odds = (np.arange(0.5, N) / N) ** (N - 1)
    counts = np.zeros(N)
    for step in range(800):
        noise = keyed_uniform(2, step, indices=np.arange(N)).astype(np.float32)
        counts += policy.act(view | {"noise": noise})
    found = counts[np.argsort(view["learner_losses"])] / 800
    np.testing.assert_allclose(found, odds / odds.sum(), atol=0.06)


def test_a_keep_ratio_of_zero_keeps_nothing():
    class Nothing(SelectiveBackprop):
        def keep_ratio(self, observation):
            return 0.0

    assert not Nothing().act(full_view()).any()


# ------------------------------------------------------------------ scores, pickers, custom


def test_every_score_and_picker_has_a_line_and_no_option_is_swallowed():
    assert all(one.text for one in (*SCORES.values(), *PICKERS.values()))
    with pytest.raises(ValueError, match="did you mean 'laplacian'"):
        make_picker("softmax", laplacia="normalized")
    with pytest.raises(ValueError, match="no option 'laplacian'"):
        make_picker("softmax", score="loss", laplacian="normalized")
    with pytest.raises(ValueError, match="did you mean 'learnability'"):
        make_score("learnabilty")


@pytest.mark.parametrize("score", sorted(SCORES))
@pytest.mark.parametrize("picker", sorted(PICKERS))
def test_every_score_goes_with_every_picker_that_takes_one(score, picker):
    takes = picker not in ("uniform", "k-center", "divbs")
    parameters = {"score": score} if takes else {}
    policy = policies.make_policy("custom", schedule=QUARTER, picker=picker, **parameters)
    view = full_view(6)
    seen = {k: v for k, v in view.items() if k in policy.needs or k in ALWAYS}
    weights = policy.act(seen)
    assert weights.sum() == 4 or picker == "bernoulli"


ALWAYS = ("valid", "noise", "progress", "labels", "last_losses", "age", "visited")


def test_the_score_decides_what_custom_keeps():
    view = full_view(8)
    assert kept("custom", view, score="loss", picker="top-score").tolist() == top(
        view["learner_losses"]
    )
    policy = policies.make_policy("custom", score="fiedler-normalized", picker="hybrid")
    assert policy.needs["spectral_scores"]["laplacian"] == "normalized"
    assert policy.normalizer == "kept"
    assert policies.make_policy("custom", weighting="drawn").normalizer == "drawn"


def test_customs_unbiased_weights_are():
    policy = policies.make_policy(
        "custom", schedule=QUARTER, score="loss", picker="bernoulli", weighting="unbiased"
    )
    view = full_view(2)
    gradients = np.random.default_rng(1).normal(1.0, 1.0, N)
    sums, counts = [], []
    for step in range(2500):
        noise = keyed_uniform(4, step, indices=np.arange(N)).astype(np.float32)
        weights = policy.act(view | {"noise": noise})
        sums.append((weights * gradients).sum() / N)
        counts.append((weights > 0).sum())
    assert policy.normalizer == "drawn"
    error = np.std(sums) / np.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx(gradients.mean(), abs=4 * error)
    assert np.mean(counts) == pytest.approx(4, abs=0.1)
    with pytest.raises(ValueError, match="--picker bernoulli"):
        policies.make_policy("custom", picker="softmax", weighting="unbiased")


def test_custom_is_understood_and_not_listed():
    assert "custom" in UNLISTED
    assert "custom" not in POLICIES
    assert "custom" not in policies.policy_names()
