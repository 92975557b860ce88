"""A policy's own arithmetic: what it says it takes, and who charges it."""

from __future__ import annotations

import numpy as np
import pytest

from gstds.policies import Policy, RunContext, Selector, make_policy
from gstds.selection.pickers import PICKERS, make_picker
from gstds.selection.schedules import make_schedule
from gstds.selection.weights import divbs_flops, k_center_flops
from tests.policies.settings import CONTEXT, SETTINGS, make
from tests.policies.views import full_view

SIZES = RunContext(**vars(CONTEXT) | {"feature_dim": 100, "embedding_dim": 30})
CHARGED = {"divbs", "k-center", "linucb"}


@pytest.mark.parametrize("name", SETTINGS)
def test_only_these_policies_have_arithmetic_worth_a_charge(name):
    flops = make(name).step_flops(24, 12, SIZES)
    assert (flops > 0) == (name in CHARGED)
    assert flops <= make(name).step_flops(24, 24, SIZES)


@pytest.mark.parametrize("name", sorted(PICKERS))
def test_a_pickers_cost_is_the_same_under_every_policy_that_uses_it(name):
    cost = make_picker(name).flops(24, 12, SIZES)
    assert (cost > 0) == (name in CHARGED)
    for policy in ("custom", "budget", "plateau"):
        assert make_policy(policy, picker=name).step_flops(24, 12, SIZES) == cost


def test_k_center_by_hand():
    # one triangle of the inner products of 10 rows of 5, and distances to the mean
    assert k_center_flops(10, 2, 5) == 10 * 11 * 5 + 3 * 10 * 5
    assert k_center_flops(10, 0, 5) == 0
    assert make_policy("k-center").step_flops(24, 6, SIZES) == 28 * 24 * 100


def test_divbs_by_hand():
    # two Gram matrices of 10 rows, 3 + 4 columns; then 2 picks, each a product (10, 2) by 2
    assert divbs_flops(10, 2, 3, 4) == 2 * 10 * 10 * 7 + 2 * (2 * 10 * 2)
    assert make_policy("divbs").step_flops(24, 6, SIZES) == divbs_flops(24, 6, 4, 30)


def test_linucb_counts_the_solves_of_a_decision_over_its_interval():
    every, fourth = (make_policy("linucb", interval=i).step_flops(24, 6, SIZES) for i in (1, 4))
    assert every == pytest.approx(4 * fourth)
    assert every > 2 * 5 * 2 / 3 * 18**3


class Dear(Policy):
    """Keeps a quarter; its arithmetic takes a third of an update on the whole batch."""

    seen = None

    def act(self, observation):
        self.seen = observation
        return np.asarray(observation["valid"]) * (np.arange(len(observation["valid"])) % 4 == 0)

    def step_flops(self, drawn, kept, context):
        return drawn * context.sample_flops / 3


def test_a_selector_counts_it_where_operations_are_counted():
    left = {}
    for flops in (None, 6.0):
        policy = Dear()
        selector = Selector(policy, None, 3, num_samples=40, num_classes=4, sample_flops=flops)
        for _ in range(2):
            selector.select(np.arange(20))
        left[flops] = float(policy.seen["budget_left"][0])
    # full training: 2 epochs of 40 samples; before the second batch, 5 samples and their choosing
    assert left[6.0] == pytest.approx(1 - (5 * 6 + 20 * 6 / 3) / (2 * 40 * 6))
    assert left[None] == pytest.approx(1 - 5 * 3 / (2 * 40 * 3))


def test_a_selector_knows_the_widths():
    width = full_view()["learner_embeddings"].shape[1]
    options = {"num_samples": 16, "labels": np.arange(16) % 4, "sample_flops": 1e6}
    quarter = make_schedule("constant", keep=0.25)
    selector = Selector("divbs", None, 4, schedule=quarter, **options)
    names = ("learner_probabilities", "learner_embeddings")
    views = {name: full_view()[name] for name in names}
    selector.select(np.arange(16), **views)
    assert selector.state_dict()["spent"] == 16 * 1e6 / 3 + 4 * 1e6 + divbs_flops(16, 4, 4, width)
    again = Selector("divbs", None, 4, schedule=quarter, **options)
    again.load_state_dict(selector.state_dict())
    for one in (selector, again):
        one.select(np.arange(16), **views)
    assert again.state_dict()["spent"] == selector.state_dict()["spent"]
