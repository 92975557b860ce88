"""An update takes as many threads as it keeps busy, and leaves the count as it was."""

from __future__ import annotations

import pytest
import torch

from gstds.envs.learner import learner as threads
from gstds.envs.learner.learner import (
    FLOPS_OF_A_THREAD,
    Learner,
    limited_threads,
    threads_for,
)
from gstds.options.world import LearnerOptions

CPU = torch.device("cpu")


@pytest.fixture
def four_threads(monkeypatch):
    monkeypatch.setattr(threads, "waiting_threads_sleep", True)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_threads_grow_with_the_operations_up_to_those_there_are():
    work = [0, 0.5, 1, 1.9, 2, 3.5, 100]
    counts = [threads_for(share * FLOPS_OF_A_THREAD, 4) for share in work]
    assert counts == [1, 1, 1, 1, 2, 3, 4]
    assert threads_for(1e12, 1) == 1


@pytest.mark.usefixtures("four_threads")
def test_the_count_is_put_back_whatever_happens():
    with limited_threads(2 * FLOPS_OF_A_THREAD, CPU):
        assert torch.get_num_threads() == 2
    with limited_threads(0, CPU):
        assert torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), limited_threads(0, CPU):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 4
    with limited_threads(0, torch.device("cuda")):
        assert torch.get_num_threads() == 4


def test_threads_that_spin_are_all_taken(monkeypatch):
    monkeypatch.setattr(threads, "waiting_threads_sleep", False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    with limited_threads(0, CPU):
        assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_a_learner_takes_threads_by_the_samples_it_is_given(monkeypatch):
    shape = (1, 28, 28)
    learner = Learner(LearnerOptions(), shape=shape, classes=10, seed=0, device=CPU)
    seen = []
    learner.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    for n in (2, 64, 128):
        images = torch.zeros((n, *shape)).to(memory_format=torch.channels_last)
        labels = torch.zeros(n, dtype=torch.int64)
        learner.update(images, labels, torch.ones(n), n, step=0)
        learner.logits(images)
        seen.append(torch.get_num_threads())
    expected = []
    for n in (2, 64, 128):
        both = (learner.train_flops, learner.forward_flops)
        expected += [*(threads_for(n * flops, 4) for flops in both), 4]
    assert seen == expected
    assert len(set(expected)) > 2
