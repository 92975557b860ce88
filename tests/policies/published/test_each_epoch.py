"""Policies that choose when an epoch begins, against their releases' arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gstds.policies import Transition, make_policy
from gstds.policies.published.history.rcap import quotas
from gstds.policies.published.history.seta import ordered_groups
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
    assert make_policy("infobatch").normalizer == "drawn"  # of a step's update as of the epoch's
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


# ------------------------------------------------------------------ KAKURENBO


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_kakurenbo_hides_what_the_release_would_and_makes_the_step_larger(share):
    losses = table(3)
    weights = course(make_policy("kakurenbo", share=share), losses)
    assert (weights[0] == 1).all()
    moved_back = 0
    for epoch in range(1, EPOCHS):
        progress = epoch / EPOCHS  # the release: epochs 60, 120, 160 of 200
        part = 1.0 if progress < 0.3 else 0.8 if progress < 0.6 else 0.6 if progress < 0.8 else 0.4
        scores = losses[epoch - 1]  # of the hidden, too: they are forwarded again
        most = int(part * share * SAMPLES)
        hidden = np.zeros(SAMPLES, bool)
        for sample in sorted(range(SAMPLES), key=lambda i: scores[i])[:most]:
            hidden[sample] = np.exp(-scores[sample]) >= 0.7
        moved_back += most - hidden.sum()
        assert (weights[epoch] == 0).tolist() == hidden.tolist()
        np.testing.assert_allclose(weights[epoch][~hidden], 1 / (1 - part * share), rtol=1e-6)
    assert moved_back > 0


# ------------------------------------------------------------------ SeTa


def test_setas_window_slides_from_easy_to_hard_over_the_groups_and_takes_all_at_last():
    level = np.repeat(np.arange(4), SAMPLES // 4)  # four groups, far apart
    losses = np.array([0.1, 0.5, 1.5, 4.0])[level] + 0.01 * np.arange(SAMPLES) / SAMPLES
    policy = make_policy("seta", prune=0, groups=4, window=0.5)
    weights = [chosen(policy, losses, 1, epoch)[0] for epoch in range(EPOCHS)]
    for epoch, now in enumerate(weights):
        start = epoch % (4 - 2 + 1)
        window = (level >= start) & (level < start + 2)
        everything = epoch == 0 or epoch + 1 > EPOCHS * 0.875
        assert (now == 1).tolist() == (window | everything).tolist()


def test_seta_leaves_a_random_share_out_first_and_again_each_epoch():
    losses = table(4)
    weights = course(make_policy("seta"), losses)
    kept = [np.flatnonzero(now) for now in weights]
    for epoch in (0, 7):  # before anything is known, and at last
        assert len(kept[epoch]) == int(0.9 * SAMPLES)
    assert set(kept[0]) != set(kept[7])
    assert all(0 < len(now) < int(0.9 * SAMPLES) for now in kept[1:7])
    assert set(weights.flat) == {0.0, 1.0}


@pytest.mark.parametrize("seed", range(4))
def test_setas_groups_are_a_fixed_point_of_k_means(seed):
    values = np.random.default_rng(seed).gamma(1.0, 1.0, 200)
    group = ordered_groups(values, 6)
    centers = np.array([values[group == g].mean() for g in range(6)])
    assert (np.diff(centers) > 0).all()
    np.testing.assert_array_equal(np.abs(values[:, None] - centers).argmin(axis=1), group)
    assert (ordered_groups(np.ones(9), 5) < 5).all()


# ------------------------------------------------------------------ RCAP


def released_counts(importance, kept, keep):
    """Samples of each class, by the release's loop."""
    size = np.bincount(LABELS)
    wanted = int(np.ceil(keep * SAMPLES))
    loss = np.array([importance[(c == LABELS) & kept].sum() for c in range(4)])
    loss[loss == 0] = 1  # where nothing was kept of it, which cannot be in the release
    root = np.sqrt(loss * size / SAMPLES)
    fraction = root / root.sum() * wanted / size
    while (fraction > 1).any():
        fraction[fraction > 1] = 1
        rest = fraction < 1
        fraction[rest] = root[rest] / root[rest].sum() * wanted / size[rest]
    return np.ceil(np.round(fraction * size, 9))


@pytest.mark.parametrize(("keep", "beta"), [(0.25, 2.0), (0.5, 0.5)])
def test_rcap_keeps_of_each_class_as_many_as_the_release(keep, beta):
    losses = 3 * table(5)  # so that some are cut
    weights = course(make_policy("rcap", keep=keep, beta=beta), losses)
    assert (weights[0] > 0).sum() == np.ceil(keep * SAMPLES)
    for epoch in range(1, EPOCHS):
        scores = np.nan_to_num(known(losses, weights, epoch), nan=np.log(4))
        scores = np.clip(scores, 0, np.log(4))
        importance = np.zeros(SAMPLES)
        for c in range(4):
            odds = np.exp(scores[c == LABELS] / beta)
            importance[c == LABELS] = odds / odds.sum()
        counts = released_counts(importance, weights[epoch - 1] > 0, keep)
        assert np.bincount(LABELS[weights[epoch] > 0], minlength=4).tolist() == counts.tolist()
    assert set(weights.flat) == {0.0, 1.0}


def test_rcap_draws_high_losses_of_a_class_more_often_and_cuts_them():
    losses = np.linspace(0, 3, SAMPLES) * np.ones((2, 1))
    policy, counts, told = make_policy("rcap", beta=0.5), np.zeros(SAMPLES), np.zeros(SAMPLES)
    for seed in range(60):
        first, second = course(policy, losses, seed)
        counts += (second > 0) & (first > 0) & (LABELS == 0)
        told += (first > 0) & (LABELS == 0)
    share = counts / np.maximum(told, 1)
    low, middle, high = (share[LABELS == 0][part] for part in np.array_split(np.arange(36), 3))
    assert low.mean() < 0.5 * high.mean()
    assert middle.mean() < high.mean()


def test_rcaps_quota_where_a_class_is_kept_whole_is_the_releases():
    found = quotas(np.array([0.1, 1.0, 1.0]), np.array([50.0, 5.0, 9.0]), 40)
    root = np.sqrt(np.array([0.1, 1.0, 1.0]) * np.array([50.0, 5.0, 9.0]) / 64)
    assert (root / root.sum() * 40)[1:].min() > 5
    assert found.tolist() == [40, 5, 9]  # the others' share is not taken off
