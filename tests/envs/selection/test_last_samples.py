"""The end of an equal budget: its last remainder, too small to pay for another batch."""

import numpy as np
import pytest

from gstds import envs

OPTIONS = {"dataset": "digits", "epochs": 1, "batch_size": 64, "reward": "none", "observe": ()}


@pytest.fixture
def env():
    made = envs.DataSelectionEnv(**OPTIONS)
    made.reset(seed=0)
    return made


def spend(env, samples, *, step=0, seed=7, carried=()):
    env.trainer.carried = list(carried)
    return env.trainer.spend(samples * env.sample_flops, step=step, seed=seed)


@pytest.mark.parametrize("samples", [0.999, 1, 63.5, 64, 130])
def test_as_many_samples_as_the_remainder_pays_for(env, samples):
    chosen, step = spend(env, samples)
    assert len(chosen) == int(samples) == len(set(chosen))
    assert step == -(-int(samples) // 64)
    assert env.ledger.flops.get("train", 0) == int(samples) * env.sample_flops


def test_they_come_from_the_next_batches_and_depend_on_the_seed(env):
    chosen, _ = spend(env, 70, step=3)
    assert set(chosen[:64]) == set(env.draws.batch(3))
    assert set(chosen[64:]) < set(env.draws.batch(4))
    assert set(spend(env, 6, seed=1)[0]) != set(spend(env, 6, seed=2)[0])


def test_carried_samples_are_paid_for_first(env):
    from gstds.envs.selection.trainer import Carried

    chosen, step = spend(env, 3, carried=[Carried(5, 0, 1.0)])
    assert len(chosen) == 2
    assert step == 1
    assert env.ledger.flops["train"] == 3 * env.sample_flops


def test_an_update_too_small_is_not_made(env):
    env.learner.min_batch = 3
    chosen, step = spend(env, 2)
    assert (len(chosen), step) == (0, 0)
    assert chosen.dtype == np.int64
