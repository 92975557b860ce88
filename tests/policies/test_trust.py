"""Trust in labels is a component of its own, before any policy."""

from __future__ import annotations

import numpy as np
import pytest

from gstds.observation.shown import made_up_batch
from gstds.policies import make_policy
from gstds.policies.base import begin_run, transition_of
from gstds.policies.rehearsal import made_up_context
from gstds.selection.weights import kept_count

N, CLASSES = 64, 10
WRONG = np.arange(N) % 4 == 0


def batch(seed=0, **more):
    """A batch in which a quarter of the labels is wrong, and the reference is sure of the rest."""
    shown = made_up_batch(N, CLASSES, seed=seed)
    shown["reference_losses"] = np.where(WRONG, 6.0, 0.3).astype(np.float32)
    return shown | more


def begun(name, **options):
    policy = make_policy(name, **options)
    begin_run(policy, 0, made_up_context(N, num_classes=CLASSES))
    return policy


@pytest.mark.parametrize("trust", ["reference", "agreement"])
@pytest.mark.parametrize("name", ["random", "gstds", "jest", "stale-big-loss", "divbs"])
def test_a_policy_keeps_as_many_as_without_and_none_that_is_not_trusted(name, trust):
    plain, filtered = (
        begun(name, schedule="constant"),
        begun(name, schedule="constant", trust=trust),
    )
    observation = batch()
    count = int((plain.act(observation) > 0).sum())
    kept = filtered.act(observation) > 0
    assert kept.sum() == count
    assert not kept[WRONG].any()
    if name != "jest":  # which goes by the reference's losses anyway
        assert (plain.act(observation) > 0)[WRONG].any()


def test_full_keeps_the_trusted_and_random_no_more_than_there_are():
    kept = begun("full", trust="reference").act(batch()) > 0
    assert np.array_equal(kept, ~WRONG)
    from gstds.selection.schedules import make_schedule

    most = begun("random", trust="reference", schedule=make_schedule("constant", keep=0.9))
    assert np.array_equal(most.act(batch()) > 0, ~WRONG)
    few = begun("random", trust="reference", schedule=make_schedule("constant", keep=0.3))
    assert (few.act(batch()) > 0).sum() == kept_count(0.3, N)


def test_trust_of_none_is_the_policy_itself():
    assert type(make_policy("random", trust="none")) is type(make_policy("random"))
    assert make_policy("best", trust="none").needs == {}
    assert type(make_policy("best", trust="reference")) is type(make_policy("best"))
    assert begun("best", trust="agreement").act(batch())[WRONG].sum() == 0
    with pytest.raises(ValueError, match="did you mean 'reference'"):
        make_policy("random", trust="referenc")


def test_agreement_is_at_least_half_and_padding_is_no_sample():
    losses = np.full(N, np.log(2.0) - 1e-6, np.float32)
    losses[1::2] += 2e-6
    valid = (np.arange(N) < 40).astype(np.float32)
    kept = begun("full", trust="agreement").act(batch(reference_losses=losses, valid=valid)) > 0
    assert np.array_equal(np.flatnonzero(kept), np.arange(0, 40, 2))


def test_what_is_inside_learns_and_sees_what_it_declares():
    policy = begun("best", trust="agreement")
    observation = batch()
    info = {"losses": np.ones(N), "trained": np.ones(N), "indices": np.arange(N)}
    policy.learn(transition_of(policy, observation, np.ones(N), 0.0, observation, info))
    assert policy.state_dict()
    inner = begun("random", trust="reference")
    assert set(inner.needs) == {"reference_losses"}


def test_labels_that_are_no_classes_are_not_filtered():
    policy = make_policy("random", trust="reference")
    with pytest.raises(ValueError, match="num_classes is 1; pass num_classes=, or trust='none'"):
        begin_run(policy, 0, made_up_context(N, num_classes=1))
