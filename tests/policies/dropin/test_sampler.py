"""Selection before loading: what cannot work is refused when the loader is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_selector import Counting, selector
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from gstds.policies import IndexedDataset, SelectionSampler, make_policy

BATCHES = [range(20), range(20, 40)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gradient-noise", {"picker": "uniform"}, "needs gradient_noise, and batches are"),
        ("loss-gap", {"picker": "uniform"}, "needs validation_loss, and batches are"),
        ("budget", {"picker": "uniform"}, "learns from each step, and batches are selected ahead"),
        ("plateau", {"picker": "uniform"}, "learns from each step"),
        ("bandit", {"picker": "uniform"}, "learns from each step"),
        ("best", {}, "learns from each step"),
        ("infobatch", {}, "learns from each step"),
        ("stale-selective-backprop", {}, "learns from each step"),
    ],
)
@pytest.mark.told("Loaders and frameworks", "`SelectionSampler` with `{name}`")
def test_a_policy_that_follows_training_is_refused_at_once(name, options, message):
    chooser = selector(policy=make_policy(name, **options))
    with pytest.raises(ValueError, match=f"selector: policy .* {message}.*inside the loop instead"):
        SelectionSampler(chooser, BATCHES)
    assert not chooser.ahead


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (5, "batches must be lists of indices, got 5; pass torch.utils.data.BatchSampler"),
        (range(5), "batches must be lists of indices, got range of single indices"),
        (RandomSampler(range(5)), "got RandomSampler of single indices"),
        (iter(BATCHES), "batches must begin anew in each epoch, got a list_iterator"),
    ],
)
@pytest.mark.told("Loaders and frameworks", "`SelectionSampler(selector, {batches})`")
def test_what_is_no_batches_is_refused_at_once(batches, message):
    with pytest.raises(TypeError, match=message):
        SelectionSampler(selector(), batches)


@pytest.mark.told("Loaders and frameworks", "`SelectionSampler(selector, np.arange(5))`")
def test_a_sampler_of_single_indices_of_ones_own_is_named():
    sampler = SelectionSampler(selector(), np.arange(5))
    with pytest.raises(TypeError, match=r"batches must be lists of indices, got .* as batch 0"):
        next(iter(sampler))


@pytest.mark.told("Loaders and frameworks", "`SelectionSampler('gstds', batches)`")
def test_what_is_no_selector_is_named():
    with pytest.raises(TypeError, match=r"selector must be a gstds\.Selector, got 'gstds'"):
        SelectionSampler("gstds", BATCHES)


@pytest.mark.told("Loaders and frameworks", "`IndexedDataset` with an ordinary sampler")
def test_a_data_set_with_an_ordinary_sampler_is_told_of_the_other():
    with pytest.raises(TypeError, match=r"asked for \(index, weight\), got 3; .*batch_sampler=Sel"):
        IndexedDataset(Counting())[3]


def test_each_epoch_is_drawn_anew():
    order = RandomSampler(range(60), generator=torch.Generator().manual_seed(0))
    sampler = SelectionSampler(selector(), BatchSampler(order, 20, drop_last=False))
    loader = DataLoader(IndexedDataset(Counting()), batch_sampler=sampler)
    assert [sum(1 for _ in loader) for _ in range(2)] == [3, 3]
