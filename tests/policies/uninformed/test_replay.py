from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gstds.policies import make_policy
from gstds.policies.uninformed.replay import Replay, decode_sequence, encode_sequence
from tests.policies.settings import CONTEXT, N, observation

RATIOS = np.arange(100) % 13 / 24


def test_a_sequence_survives_being_text():
    np.testing.assert_array_equal(
        decode_sequence("ratios", encode_sequence(RATIOS)), np.float32(RATIOS)
    )


@pytest.mark.parametrize("text", ["", "??", "aGVsbG8=", encode_sequence([0.5, 1.5]),
                                  encode_sequence([]), encode_sequence([np.nan])])  # fmt: skip
def test_what_is_no_sequence_is_refused_by_name(text):
    with pytest.raises(ValueError, match="ratios"):
        Replay(text)


def test_under_equal_epochs_every_step_keeps_what_the_other_run_kept():
    policy = Replay(encode_sequence(RATIOS))
    policy.reset(0, CONTEXT)
    for step in range(100):
        weights = policy.act(observation(policy, step, progress=step / 100))
        assert (weights > 0).sum() == step % 13
        assert set(np.unique(weights)) <= {0.0, 1.0}


def test_a_short_batch_keeps_its_own_count():
    policy = Replay(encode_sequence([3 / 7] * 100))
    policy.reset(0, CONTEXT)
    assert (policy.act(observation(policy, valid=7)) > 0).sum() == 3


def test_under_an_equal_budget_the_ratio_is_that_of_the_same_share_of_it():
    # Steps that ended when .2, .5 and 1 of the budget was spent.
    policy = Replay(encode_sequence([0.25, 0.5, 1.0]), encode_sequence([0.2, 0.5, 1.0]))
    policy.reset(0, replace(CONTEXT, setting="equal-budget"))
    for progress, ratio in ((0.0, 0.25), (0.19, 0.25), (0.2, 0.5), (0.49, 0.5), (0.5, 1.0)):
        assert policy.keep_ratio(observation(policy, progress=progress)) == ratio
    assert (policy.act(observation(policy, progress=0.3)) > 0).sum() == N / 2


def test_a_sequence_of_another_run_is_refused():
    with pytest.raises(ValueError, match="each of the run's 100 steps, got 3"):
        Replay(encode_sequence([0.5] * 3)).reset(0, CONTEXT)
    with pytest.raises(ValueError, match="equal-budget needs progress"):
        Replay(encode_sequence(RATIOS)).reset(0, replace(CONTEXT, setting="equal-budget"))
    with pytest.raises(ValueError, match="equal-epochs takes no progress"):
        Replay(encode_sequence([1.0]), encode_sequence([1.0])).reset(0, CONTEXT)
    with pytest.raises(ValueError, match="as many steps"):
        Replay(encode_sequence([1.0]), encode_sequence([0.5, 1.0]))


def test_it_has_a_name_that_says_whose_sequence_it_is():
    policy = make_policy("random:plateau", ratios=encode_sequence(RATIOS))
    assert isinstance(policy, Replay)
    assert not policy.needs
    with pytest.raises(ValueError, match=r"'random:plateau' needs ratios"):
        make_policy("random:plateau")
