from __future__ import annotations

import pytest

from gstds.train.running.options import config_from
from gstds.train.running.setup import make_run_policy


def policy(**options):
    return make_run_policy(config_from(options))


def test_an_adaptive_policy_takes_a_picker_and_random_is_one():
    assert policy(policy="plateau", picker="uniform").picker.name == "uniform"
    assert policy(policy="random", picker="uniform").picker.name == "uniform"
    assert policy(policy="custom", picker="top-score", score="loss").picker.name == "top-score"


@pytest.mark.parametrize(
    ("name", "picker"), [("random", "hybrid"), ("gstds", "uniform"), ("rho-loss", "softmax")]
)
def test_a_policy_with_its_own_way_of_picking_refuses_another(name, picker):
    with pytest.raises(ValueError, match=f"'{name}' has its own way of picking, not '{picker}'"):
        policy(policy=name, picker=picker)
