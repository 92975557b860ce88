"""Scores from a thread that works ahead are those of the step, to the bit, and are paid once."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from gstds.envs import DataSelectionEnv
from gstds.envs.selection.scorer import Ahead


def episode(ahead, **options):
    env = DataSelectionEnv(
        dataset="digits", limit=300, batch_size=64, epochs=6, ahead=ahead,
        reference="untrained", reward="none", **options,
    )  # fmt: skip
    observation, _ = env.reset(seed=3)
    seen, done = [observation], False
    while not done:
        weights = (observation["spectral_scores"] > np.median(observation["spectral_scores"])) * 1.0
        observation, _, terminated, truncated, _ = env.step(weights)
        seen.append(observation)
        done = terminated or truncated
    return env, seen


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("setting", ["equal-epochs", "equal-budget"])
def test_ahead_or_not_is_the_same_run_to_the_bit(setting, pack):
    first, seen = episode(True, setting=setting, pack=pack)
    second, again = episode(False, setting=setting, pack=pack)
    assert len(seen) == len(again) > 6
    for mine, other in zip(seen, again, strict=True):
        assert all(np.array_equal(mine[name], other[name]) for name in mine)
    assert first.ledger.flops == second.ledger.flops
    for name, value in first.learner.model.state_dict().items():
        assert value.equal(second.learner.model.state_dict()[name])


def test_a_run_goes_on_from_a_saved_state_with_the_scores_it_would_have_had():
    options = {"dataset": "digits", "limit": 300, "batch_size": 64, "reference": "untrained"}
    env, fresh = DataSelectionEnv(**options), DataSelectionEnv(**options)
    env.reset(seed=1)
    env.step(np.ones(64, np.float32))
    waiting = fresh.load_state_dict(env.state_dict())
    assert np.array_equal(waiting["spectral_scores"], env.observation()["spectral_scores"])
    ours, theirs = env.step(np.ones(64, np.float32)), fresh.step(np.ones(64, np.float32))
    assert np.array_equal(ours[0]["spectral_scores"], theirs[0]["spectral_scores"])
    assert env.ledger.flops == fresh.ledger.flops


def last_begun(env, weights, steps, monkeypatch):
    """Return, for each of some steps, the last step that was begun when its training began."""
    env.reset(seed=1)
    begun = []
    train = env.trainer.train

    def noting(*args, **options):
        begun.append(max(env.scorer.begun))
        return train(*args, **options)

    monkeypatch.setattr(env.trainer, "train", noting)
    for _ in range(steps):
        env.step(weights)
    return begun


@pytest.mark.parametrize("ahead", [True, False])
def test_the_next_batch_is_begun_before_this_one_is_trained_on(ahead, monkeypatch):
    options = {"dataset": "digits", "limit": 300, "batch_size": 64, "reference": "untrained"}
    env = DataSelectionEnv(**options, ahead=ahead)
    begun = last_begun(env, np.ones(64, np.float32), 3, monkeypatch)
    assert begun == ([1, 2, 3] if ahead else [0, 1, 2])


def test_with_pack_all_batches_until_the_next_update_are_begun_at_an_update(monkeypatch):
    options = {"dataset": "digits", "limit": 600, "batch_size": 64, "reference": "untrained"}
    quarter = np.zeros(64, np.float32)
    quarter[:16] = 1
    begun = last_begun(DataSelectionEnv(**options, pack=True), quarter, 9, monkeypatch)
    # Updates at the steps 3 and 7: each begins the four batches up to the next one's.
    assert begun == [0, 1, 2, 7, 7, 7, 7, 11, 11]


def test_taking_one_waits_for_all_that_were_begun():
    done = []

    def slow(step):
        if step == 3:
            time.sleep(0.2)
        done.append(step)
        return {}, float(step)

    ahead = Ahead(slow, active=True)
    ahead.begin(1, 3)
    assert ahead.take(1) == ({}, 1.0)
    assert done == [1, 2, 3]
    assert ahead.take(3) == ({}, 3.0)
    assert done == [1, 2, 3]


def counting(calls):
    def compute(step):
        calls.append((step, threading.current_thread().name))
        return {"step": step}, float(step)

    return compute


def test_what_was_begun_is_computed_once_and_elsewhere():
    calls = []
    ahead = Ahead(counting(calls), active=True)
    ahead.begin(4)
    ahead.begin(4)
    assert ahead.take(4) == ({"step": 4}, 4.0)
    assert ahead.take(4)[1] == 4.0
    assert [step for step, _ in calls] == [4]
    assert calls[0][1] != threading.current_thread().name


def test_another_step_than_the_one_begun_is_computed():
    ahead = Ahead(counting([]), active=True)
    ahead.begin(4)
    assert ahead.take(7)[1] == 7.0
    assert ahead.take(4)[1] == 4.0


def test_inactive_waits_to_be_asked():
    calls = []
    ahead = Ahead(counting(calls), active=False)
    ahead.begin(2)
    assert ahead.take(1)[1] == 1.0
    assert [step for step, _ in calls] == [1]


def test_what_the_thread_raises_is_raised_to_who_takes_it():
    def compute(step):
        raise ValueError(f"step {step}")

    ahead = Ahead(compute, active=True)
    ahead.begin(1)
    with pytest.raises(ValueError, match="step 1"):
        ahead.take(1)


def test_the_learners_number_of_threads_is_left_as_it_was():
    import torch

    before = torch.get_num_threads()
    ahead = Ahead(lambda step: ({"threads": torch.get_num_threads()}, 0.0), active=True)
    assert ahead.take(0)[0]["threads"] == 1
    assert torch.get_num_threads() == before
