"""Every policy of the settings table under the same tests; a registry line enrolls a new one."""

from __future__ import annotations

import numpy as np
import pytest
from settings import SETTINGS, N, make, observation

from gstds.selection import kept_count
from policies import KeepRatioPolicy


@pytest.fixture(params=SETTINGS)
def name(request):
    return request.param


@pytest.mark.parametrize("valid", [1, 2, 3, N])
def test_shape_type_range_and_padding(name, valid):
    policy = make(name)
    weights = policy.act(observation(policy, valid=valid))
    assert weights.shape == (N,)
    assert weights.dtype == np.float32
    assert np.isfinite(weights).all()
    assert weights.min() >= 0
    assert weights.max() <= policy.max_weight
    assert not weights[valid:].any()


def test_the_same_answer_to_the_same_question(name):
    one, other = make(name), make(name)
    for seed in range(3):
        np.testing.assert_array_equal(
            one.act(observation(one, seed)), other.act(observation(other, seed))
        )


class Watched(dict):
    def __init__(self, values):
        super().__init__(values)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


def test_what_is_declared_is_read(name):
    policy = make(name)
    read = set()
    for seed, progress in enumerate((0.1, 0.4, 0.7)):
        view = Watched(observation(policy, seed, progress=progress))
        policy.act(view)
        read |= view.read
    assert set(policy.needs) <= read


@pytest.mark.parametrize("key", ["last_losses", "learner_losses", "reference_losses", "features"])
def test_degenerate_batches_are_answered(name, key):
    policy = make(name)
    view = observation(policy)
    if key in view:
        view[key] = np.zeros_like(view[key])
    weights = policy.act(view)
    assert np.isfinite(weights).all()
    assert weights.min() >= 0


def test_reordering_a_batch_reorders_the_answer(name):
    one, other = make(name), make(name)
    view = observation(one)
    order = np.random.default_rng(1).permutation(N)
    moved = {k: v[order] if len(v) == N else v for k, v in view.items()}
    np.testing.assert_array_equal(other.act(moved), one.act(view)[order])


def test_really_prunes(name):
    policy = make(name)
    if not isinstance(policy, KeepRatioPolicy) or not getattr(policy._picker, "exact", True):
        pytest.skip("no fixed size")
    if type(policy).act is not KeepRatioPolicy.act:
        pytest.skip("its own way of keeping")
    for step in range(0, 100, 10):
        view = observation(policy, step, progress=step / 100)
        assert (policy.act(view) > 0).sum() == kept_count(policy.keep_ratio(view), N)
