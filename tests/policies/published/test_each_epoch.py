"""Policies that choose when an epoch begins, against their releases' arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gstds.policies import Transition, make_policy
from tests.policies.views import CONTEXT, N, full_view

SAMPLES, EPOCHS = 4 * N, 8
RUN = replace(CONTEXT, num_samples=SAMPLES, steps_per_epoch=4, epochs=EPOCHS, total_steps=32)
LABELS = np.random.default_rng(8).choice(4, SAMPLES, p=[0.55, 0.25, 0.15, 0.05])


def table(seed=0, epochs=EPOCHS):
    """Losses (epochs, samples) that fall, each by its own."""
    rng = np.random.default_rng(seed)
    fall = np.exp(-rng.random(SAMPLES) * np.arange(epochs)[:, None] / 2)
    return (rng.gamma(2.0, 0.7, SAMPLES) * fall).astype(np.float32).astype(np.float64)


def course(policy, losses, seed=0, run=RUN):
    """The weights (epochs, samples) of a run in which training tells these losses, or a forward."""
    policy.reset(seed, run)
    weights = np.zeros(losses.shape)
    shown, seen = np.ones(SAMPLES), np.zeros(SAMPLES, bool)
    for step in range(4 * len(losses)):
        epoch = step // 4
        batch = np.random.default_rng(epoch).permutation(SAMPLES)[N * (step % 4) :][:N]
        view = full_view(step) | {
            "indices": batch,
            "labels": LABELS[batch].astype(np.float32),
            "last_losses": shown[batch].astype(np.float32),
            "learner_losses": losses[epoch, batch].astype(np.float32),
            "visited": seen[batch].astype(np.float32),
            "progress": np.array([step / (4 * len(losses))], np.float32),
        }
        answer = policy.act(view)
        weights[epoch, batch] = answer
        trained = answer > 0
        shown[batch[trained]], seen[batch[trained]] = losses[epoch, batch[trained]], True
        info = {"losses": losses[epoch, batch] * trained, "trained": trained}
        policy.learn(Transition(view, answer, 0.0, view, info))
    return weights


def known(losses, weights, epoch):
    """What a release would know when an epoch begins: the losses of those trained on before."""
    scores = np.full(SAMPLES, np.nan)
    for before in range(epoch):
        scores = np.where(weights[before] > 0, losses[before], scores)
    return scores


@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_infobatch_drops_an_exact_share_of_those_below_the_mean_and_weighs_the_others_up(rate):
    losses = table()
    weights = course(make_policy("infobatch", rate=rate), losses)
    assert (weights[0] == 1).all()
    for epoch in range(1, EPOCHS):
        if epoch + 1 > EPOCHS * 0.875:  # the release counts epochs from 1
            assert (weights[epoch] == 1).all()
            continue
        scores = known(losses, weights, epoch)
        low = scores < scores.mean()
        assert (weights[epoch][~low] == 1).all()
        stay = weights[epoch][low] > 0
        assert stay.sum() == int((1 - rate) * low.sum())
        np.testing.assert_allclose(weights[epoch][low][stay], 1 / (1 - rate), rtol=1e-6)


def chosen(policy, losses, seeds, epoch=1):
    """The weights (seeds, samples) that an epoch begins with, of losses known to all."""
    answers = []
    for seed in range(seeds):
        policy.reset(seed, RUN)
        answers.append(policy.choose(np.asarray(losses, np.float64), epoch, epoch / EPOCHS))
    return np.array(answers)


def test_infobatch_draws_which_uniformly_and_its_sum_is_all_samples_in_expectation():
    gradients = np.random.default_rng(1).normal(1.0, 1.0, SAMPLES)
    runs = chosen(make_policy("infobatch"), np.where(np.arange(SAMPLES) < 40, 0.5, 2.0), 800)
    sums = runs @ gradients
    error = np.std(sums) / np.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx(gradients.sum(), abs=4 * error)
    kept = (runs > 0).mean(axis=0)
    assert (kept[40:] == 1).all()
    np.testing.assert_allclose(kept[:40], 0.5, atol=4.5 * 0.5 / np.sqrt(800))


def test_a_loss_that_is_not_finite_ranks_last_and_no_sample_that_is_never_drawn_counts():
    losses, broken = table(), 5
    losses[0, broken] = np.nan
    weights = course(make_policy("infobatch"), losses, run=replace(RUN, num_samples=3 * SAMPLES))
    batches = np.random.default_rng(0).permutation(SAMPLES).reshape(4, N)
    scores = losses[0].copy()
    scores[broken] = np.nanmin(scores[next(b for b in batches if broken in b)])
    low = scores < scores.mean()
    assert (weights[1][low] > 0).sum() == low.sum() // 2
    assert set(weights[1][~low]) == {1.0}
    assert set(weights[1][low]) == {0.0, 2.0}
