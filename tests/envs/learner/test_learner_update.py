"""The update in one pass over memory is the plain update, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gstds.common.state import latest_state, save_state
from gstds.envs.learner.learner import Learner
from gstds.options.world import LearnerOptions

CPU = torch.device("cpu")


def learner(name="small-cnn", shape=(3, 16, 16)):
    return Learner(LearnerOptions(learner=name), shape=shape, classes=10, seed=0, device=CPU)


def train(one, steps, first=0):
    rng = np.random.default_rng(first)
    for step in range(first, first + steps):
        images = torch.from_numpy(rng.standard_normal((12, 3, 16, 16), dtype=np.float32))
        labels = torch.from_numpy(rng.integers(0, 10, 12))
        images = images.to(memory_format=torch.channels_last)
        one.update(images, labels, torch.ones(12), 12, step=step)
    return one.model.state_dict()


def same(first, second):
    return all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("name", ["small-cnn", "mlp", "resnet18"])
def test_the_update_in_one_pass_is_the_plain_one(name):
    fast, plain = learner(name), learner(name)
    one_pass, rest = fast.optimizer.param_groups
    assert one_pass["fused"]
    assert not rest["fused"]
    assert {p.numel() % 16 == 0 for p in one_pass["params"]} == {True}
    assert [tuple(p.shape) for p in rest["params"]] == [(10,)]
    for group in plain.optimizer.param_groups:
        group["fused"] = False
    assert same(train(fast, 4), train(plain, 4))


def test_momentum_from_a_file_is_laid_out_as_the_weights_are(tmp_path):
    whole, half = learner(), learner()
    train(half, 3)
    save_state(tmp_path, 3, half.state_dict())
    taken_up = learner()
    taken_up.load_state_dict(latest_state(tmp_path))
    train(whole, 3)
    assert same(train(whole, 3, first=3), train(taken_up, 3, first=3))
