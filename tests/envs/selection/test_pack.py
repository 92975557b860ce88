"""Packed updates: kept samples wait until there are as many as the batch was drawn with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gstds.common.state import latest_state, save_state
from gstds.envs import DataSelectionEnv

N = 32
OPTIONS = {
    "dataset": "digits", "limit": 200, "batch_size": N, "epochs": 2, "observe": [],
    "reward": "none", "augment": True, "pack": True,
}  # fmt: skip


def chosen_weights(env, step, share=0.4):
    """Weights that depend on the step alone, none equal to another."""
    rng = np.random.default_rng(step)
    weights = rng.uniform(0.2, 1.0, N).astype(np.float32)
    weights[rng.random(N) > share] = 0.0
    return weights


def spied(env):
    """Note every update's number of samples and divisor."""
    seen = []
    update = env.learner.update

    def noting(images, labels, weights, normalizer, **options):
        seen.append((len(images), float(normalizer)))
        return update(images, labels, weights, normalizer, **options)

    env.learner.update = noting
    return seen


def drive(env, weigh=chosen_weights, until=None):
    """Step to the end; return what was kept, as (sample, epoch, weight), and the last info."""
    kept, done, info = [], False, {}
    while not done and env.step_count != until:
        step, batch, epoch = env.step_count, env.batch, env.draws.epoch(env.step_count)
        weights = weigh(env, step)
        _, _, terminated, truncated, info = env.step(weights)
        kept += [(batch[i], epoch, weights[i]) for i in np.flatnonzero(weights[: len(batch)])]
        done = terminated or truncated
    return kept, info


def begun(**changes):
    env = DataSelectionEnv(**OPTIONS | changes)
    env.reset(seed=5)
    return env


def same(first, second):
    ours, theirs = first.learner.model.state_dict(), second.learner.model.state_dict()
    return all(ours[name].equal(theirs[name]) for name in ours)


def test_every_update_is_full_and_the_last_takes_what_is_left():
    env = begun()
    updates = spied(env)
    kept, info = drive(env)
    sizes = [size for size, _ in updates]
    assert len(sizes) > 3
    assert sizes[:-1] == [N] * (len(sizes) - 1)
    assert sum(sizes) == len(kept) == env.visits.sum()
    assert [divisor for _, divisor in updates] == sizes
    assert env.ledger.flops["train"] == len(kept) * env.sample_flops
    assert info["carried"] == 0


def test_the_learner_is_the_one_that_is_fed_the_kept_samples_in_order():
    env, other = begun(), begun()
    progress = []
    update = env.trainer.update

    def noting(*args, **options):
        progress.append((env.progress, options["step"]))
        return update(*args, **options)

    env.trainer.update = noting
    kept, _ = drive(env)
    for at, (now, step) in zip(range(0, len(kept), N), progress, strict=True):
        chunk = kept[at : at + N]
        images = torch.cat([other.loader.images(np.array([i]), epoch) for i, epoch, _ in chunk])
        rows = np.array([i for i, _, _ in chunk])
        weights = torch.tensor([w for _, _, w in chunk]).to(images.device)
        other.learner.set_progress(now)
        other.learner.update(images, other.loader.labels(rows), weights, len(chunk), step=step)
    assert same(env, other)


def test_losses_are_told_of_the_samples_trained_on_in_this_step():
    env = begun()
    carried = 0
    for step in range(6):
        weights = chosen_weights(env, step)
        _, _, _, _, info = env.step(weights)
        kept = np.flatnonzero(weights)
        fits = N - carried if carried + len(kept) >= N else 0
        assert np.array_equal(np.flatnonzero(info["trained"]), kept[:fits])
        assert np.array_equal(info["losses"] > 0, info["trained"])
        assert info["kept"] == len(kept)
        carried = carried + len(kept) - (N if fits else 0)
        assert info["carried"] == carried < N


def test_a_divisor_of_the_drawn_grows_by_what_each_sample_stands_for():
    env = begun(normalizer="drawn", limit=192)
    updates = spied(env)
    counts = []

    def weigh(env, step):
        weights = chosen_weights(env, step)
        counts.extend([N / (weights > 0).sum()] * int((weights > 0).sum()))
        return weights

    drive(env, weigh)
    whole = [sum(counts[at : at + N]) for at in range(0, len(counts), N)]
    assert [divisor for _, divisor in updates] == pytest.approx(whole)
    # over the run it is every drawn sample, so sums of weighted losses keep their expectation
    assert sum(divisor for _, divisor in updates) == pytest.approx(192 * 2)


def test_keeping_everything_is_the_same_packed_or_not():
    def everything(env, step):
        return np.ones(N, np.float32)

    packed, plain = begun(limit=192), begun(limit=192, pack=False)
    drive(packed, everything)
    drive(plain, everything)
    assert same(packed, plain)
    assert packed.ledger.flops == plain.ledger.flops


def test_a_batch_whose_images_were_scored_is_trained_on_as_one_that_was_not():
    scored, unscored = begun(observe=["learner_losses"]), begun()
    drive(scored)
    drive(unscored)
    assert same(scored, unscored)


@pytest.mark.parametrize("setting", ["equal-epochs", "equal-budget"])
def test_a_resumed_run_is_the_run_to_the_bit(tmp_path, setting):
    whole, half = begun(setting=setting, budget=0.4), begun(setting=setting, budget=0.4)
    drive(whole)
    drive(half, until=4)
    assert half.trainer.carried
    save_state(tmp_path, 4, half.state_dict())
    resumed = DataSelectionEnv(**OPTIONS | {"setting": setting, "budget": 0.4})
    resumed.load_state_dict(latest_state(tmp_path))
    drive(resumed)
    assert same(resumed, whole)
    assert resumed.ledger.flops == whole.ledger.flops
    assert np.array_equal(resumed.visits, whole.visits)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_an_equal_budget_is_spent_to_the_last_two_samples_and_never_over(share):
    env = begun(setting="equal-budget", budget=0.3)
    updates = spied(env)
    drive(env, lambda env, step: chosen_weights(env, step, share))
    spent = env.ledger.charged_flops
    assert spent <= env.budget_flops
    assert env.budget_flops - spent < 2 * env.sample_flops
    assert sum(size for size, _ in updates) == env.visits.sum()
    assert not env.trainer.carried


def test_a_batch_of_which_nothing_is_kept_adds_nothing():
    env = begun()
    env.step(chosen_weights(env, 0))
    before = [tuple(c) for c in env.trainer.carried]
    _, _, _, _, info = env.step(np.zeros(N, np.float32))
    assert [tuple(c) for c in env.trainer.carried] == before
    assert not info["trained"].any()


def test_pack_must_be_true_or_false():
    with pytest.raises(TypeError, match="pack must be true or false, got 'yes'"):
        DataSelectionEnv(**OPTIONS | {"pack": "yes"})
