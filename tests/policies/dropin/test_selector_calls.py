"""What a Selector is told at each step: nothing goes astray, and what cannot be is named."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_selector import N, run, selector

from gstds.policies import Policy, SelectionSampler, make_policy


class Asking(Policy):
    """Keeps what it was told to, and notes what it saw and learned."""

    needs = {}  # noqa: RUF012
    keep = slice(None)

    def act(self, observation):
        self.seen = observation
        weights = np.zeros(len(observation["valid"]))
        weights[self.keep] = observation["valid"][self.keep]
        return weights

    def learn(self, transition):
        self.info = transition.info


class Silent(Policy):
    keep = 0.0

    def act(self, observation):
        return observation["valid"] * self.keep


# ---------------------------------------------------------------------- processes


@pytest.fixture
def two(monkeypatch):
    """Call it, and there are two processes that keep the same."""

    def initialize():
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(dist, "get_rank", lambda: 0)
        monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.mul_(2))

    return initialize


def test_a_process_group_may_be_made_after_the_selector(two):
    chooser = selector(policy="full")
    two()
    _, weights = chooser.select(np.arange(10))
    assert torch.allclose(weights, torch.full((10,), 2 / 20))


@pytest.mark.told("Loops of your own", "a process group made after the first batch")
def test_a_process_group_made_after_the_first_batch_is_refused(two):
    chooser, alone = selector(policy="full"), selector(policy="full", distributed=False)
    chooser.select(np.arange(10))
    alone.select(np.arange(10))
    two()
    with pytest.raises(RuntimeError, match=r"has 2 processes, and had 1 when .* first used; make"):
        chooser.select(np.arange(10))
    with pytest.raises(RuntimeError, match="make the process group before the first batch"):
        chooser.observe_losses([], [])
    assert alone.select(np.arange(10))[1].sum().item() == pytest.approx(1)


def test_a_process_group_may_be_made_after_a_state_is_taken_up(two, monkeypatch):
    saved = selector(policy="infobatch")
    run(saved, 4)
    resumed = selector(policy="infobatch")
    resumed.load_state_dict(saved.state_dict())
    contexts, begin = [], resumed.policy.reset

    def noting(seed, context):
        contexts.append(context)
        begin(seed, context)

    monkeypatch.setattr(resumed.policy, "reset", noting)
    two()
    resumed.select(np.arange(10))
    assert resumed.policy.state_dict()["steps"] == 4
    assert [context.steps_per_epoch for context in contexts] == [2]


@pytest.mark.told("Loops of your own", "`Selector(…, distributed=True)` in one process")
def test_processes_that_are_insisted_on_must_be_there():
    with pytest.raises(ValueError, match="distributed must not be True without a process group"):
        selector(distributed=True).select([1])


# ---------------------------------------------------------------------- steps


@pytest.mark.told("Policies and plug-ins", "weights of 0 for a whole epoch")
def test_an_epoch_of_which_nothing_is_kept_is_an_error():
    policy = Silent()
    chooser = selector(policy=policy, batch_size=20)
    for keep in (0, 0, 1, 0, 0):
        policy.keep = keep
        chooser.select(np.arange(20))
    other = selector(policy=policy, batch_size=20)
    other.load_state_dict(chooser.state_dict())
    for one in (chooser, other):
        with pytest.raises(ValueError, match=r"kept nothing for a whole epoch, 3 batches; its wei.*"
                           r"\(policy 'Silent', step 5\)"):  # fmt: skip
            one.select(np.arange(20))


@pytest.mark.told("Loops of your own", "more batches than `total_steps`")
def test_more_batches_than_were_said_are_warned_of_once():
    chooser = selector()
    run(chooser, 12)
    with pytest.warns(UserWarning, match="total_steps=12 batches are drawn, and more follow"):
        chooser.select([1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chooser.select([1])


def test_each_place_of_an_index_drawn_twice_is_told():
    policy = Asking()
    chooser = selector(policy=policy)
    chooser.select([5, 5, 6])
    chooser.observe_losses([5, 6, 5], [1.0, 2.0, 3.0])
    chooser.select([1])
    assert policy.info["trained"].tolist() == [True] * 3
    assert policy.info["losses"].tolist() == [1.0, 3.0, 2.0]
    chooser.observe_losses([1], [1.0])
    policy.keep = slice(1, 3)
    chooser.select([5, 5, 6])
    chooser.observe_losses([5, 6], [4.0, 2.0])
    chooser.select([1, 2, 3])
    assert policy.info["trained"].tolist() == [False, True, True]
    assert policy.info["losses"].tolist() == [0.0, 4.0, 2.0]


@pytest.mark.parametrize("policy", ["stale-big-loss", "infobatch"])
@pytest.mark.told("Loops of your own", "`{policy}`: losses told once, then no more")
def test_losses_that_are_told_once_and_then_forgotten_are_missed(policy):
    chooser = selector(policy=policy)
    run(chooser, 2)
    chooser.select(np.arange(20))
    with pytest.raises(
        ValueError, match=r"loss.*: .*call selector.observe_losses.* after each upd"
    ):
        chooser.select(np.arange(20))
    chooser.observe_losses([], [])
    chooser.select(np.arange(20))


@pytest.mark.told("Loops of your own", "`observe_losses([[1]], [1.0])`")
def test_one_kept_sample_of_a_numpy_batch_is_told():
    chooser = selector(schedule="constant", keep=0.25)
    indices = np.arange(4)
    kept, _ = chooser.select(indices)
    assert np.ndim(indices[kept]) == 0
    chooser.observe_losses(indices[kept], torch.tensor([0.5]))
    assert chooser.state_dict()["memory"]["visits"].sum() == 1
    with pytest.raises(ValueError, match=r"indices must have shape \(n,\), got \(1, 1\)"):
        chooser.observe_losses([[1]], [1.0])


@pytest.mark.told(
    "Policies and plug-ins",
    "a policy reads `labels`, the Selector has none",
    "a policy reads `degrees` and does not declare it",
    "a policy reads `lasst_losses`",
)
def test_what_cannot_be_shown_is_not_got_by_the_other_way():
    policy = Asking()
    chooser = selector(policy=policy, labels=None, num_samples=N, num_classes=4)
    chooser.select([1, 2])
    with pytest.raises(ValueError, match="labels: policy 'Asking' reads them; pass labels="):
        policy.seen.get("labels")
    with pytest.raises(ValueError, match="degrees: policy 'Asking' reads it and does not declare"):
        policy.seen.get("degrees", 7)
    assert policy.seen.get("valid").tolist() == [1, 1]
    with pytest.raises(ValueError, match="did you mean 'last_losses'"):
        policy.seen["lasst_losses"]


# ---------------------------------------------------------------------- the learner


def looking(*names):
    policy = Asking()
    policy.needs = {name: {} for name in names}
    return selector(policy=policy)


HALF = np.full(3, 0.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "learner_losses",
            HALF[:, None],
            r"got shape \(3, 1\); .*learner_losses.flatten\(1\).mean",
        ),
        ("learner_losses", 0.5, r"one number for each .* 3 indices, got shape \(\); .*'none'"),
        ("learner_margin", [0, 1, 17], r"in \[0, 1\], got 17 at position 2"),
        ("learner_entropy", [0, 1, -1], r"in \[0, 1\], got -1 at position 2"),
        ("learner_probabilities", np.full((3, 12), 0.1), r"shape \(3, 4\), got shape \(3, 12\)"),
        ("learner_probabilities", np.full((3, 4), 3.0), r"in \[0, 1\], got 3"),
        ("learner_embeddings", HALF, r"the shape \(3, H\), got shape \(3,\)"),
        ("learner_embeddings", np.full((3, 2), np.nan), "finite, got nan at position 0"),
    ],
)
@pytest.mark.told("Loops of your own", "`select([1, 2, 3], {name}={value})`")
def test_what_the_learner_cannot_have_is_refused(name, value, message):
    with pytest.raises(ValueError, match=f"^{name} must .*{message}"):
        looking(name).select([1, 2, 3], **{name: value})


@pytest.mark.told("Loops of your own", "`learner_embeddings` of another width than before")
def test_half_precision_and_another_width():
    one = looking("learner_probabilities", "learner_embeddings")
    certain = torch.tensor([[1.0, 0, 0, 0]] * 3, dtype=torch.bfloat16)
    views = {"learner_probabilities": certain * 1.004, "learner_embeddings": np.ones((3, 2))}
    one.select([1, 2, 3], **views)
    with pytest.raises(ValueError, match=r"learner_embeddings must .*shape \(3, 2\), got .*3, 5"):
        one.select([1, 2, 3], **views | {"learner_embeddings": np.ones((3, 5))})


# ---------------------------------------------------------------------- ahead of training


def test_where_others_keep_something_a_process_that_keeps_nothing_yields_a_sample(two, monkeypatch):
    two()
    chooser = selector(policy=Silent())
    sampler = SelectionSampler(chooser, [range(5, 8)])
    assert list(sampler) == []
    totals = "gstds.policies.dropin.selector.Ranks.totals"
    monkeypatch.setattr(totals, lambda ranks, own, kept: (own + 2, kept + 2))
    assert list(sampler) == [[(5, 0.0)]]


@pytest.mark.told("Loops of your own", "`bandit` without `observe_validation`")
def test_a_policy_that_learns_from_a_reward_asks_for_the_validation_loss_first():
    choosing = selector(policy=make_policy("bandit", picker="uniform"))
    with pytest.raises(
        ValueError, match=r"'KeepRatioBandit' learns from one; call .*observe_validation"
    ):
        choosing.select(np.arange(4))
    choosing.observe_validation(2.0)
    choosing.select(np.arange(4))
