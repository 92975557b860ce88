from __future__ import annotations

import math

import numpy as np
import pytest

from gstds.envs.task.rewards import AGENT_REWARDS, REWARDS, Curve, RewardMeter

SPENT = np.linspace(0, 1, 11)
CURVE = Curve(SPENT, 2.0 - SPENT, SPENT * 0.8)


def total(name, points, **options):
    """The rewards of a run: points are (loss, accuracy, spent), the first before any step."""
    meter = RewardMeter(name, **options)
    meter.begin(*points[0])
    last = len(points) - 1
    return [meter.reward(*point, done=i == last) for i, point in enumerate(points) if i]


def earned(name, loss=1.5, accuracy=0.5, spent=0.1):
    """What a run of one step earns that begins at a loss of 2."""
    return total(name, [(2.0, 0.1, 0.0), (loss, accuracy, spent)])[0]


@pytest.mark.parametrize("name", [n for n in REWARDS if n != "none"])
def test_sign_a_better_network_earns_more(name):
    assert earned(name, loss=1.0, accuracy=0.7) > earned(name)


def test_sign_spending_more_for_the_same_costs():
    name = "validation-loss"
    assert earned(name, spent=0.4) < earned(name, spent=0.1)
    assert earned(name, loss=2.0) < 0 < earned(name)
    assert earned("none") == 0.0


def test_the_default_telescopes_however_often_it_is_looked():
    often = [(2.0, 0.1, 0.0), (1.4, 0.3, 0.2), (1.7, 0.2, 0.5), (0.5, 0.8, 0.9)]
    seldom = [often[0], often[-1]]
    wanted = (2.0 - 0.5) - 0.1 * 0.9
    assert sum(total("validation-loss", often)) == pytest.approx(wanted)
    assert sum(total("validation-loss", seldom)) == pytest.approx(wanted)


def test_time_to_accuracy_pays_once_and_more_for_sooner():
    early = [(2, 0.1, 0.0), (1, 0.8, 0.25), (1, 0.2, 0.5), (1, 0.9, 1.0)]
    late = [(2, 0.1, 0.0), (1, 0.2, 0.25), (1, 0.8, 0.5), (1, 0.9, 1.0)]
    never = [(2, 0.1, 0.0), (1, 0.2, 0.5), (1, 0.3, 1.0)]
    assert total("time-to-accuracy", early) == [0.0, 0.0, pytest.approx(-math.log(0.25))]
    assert total("time-to-accuracy", late)[-1] == pytest.approx(-math.log(0.5))
    assert total("time-to-accuracy", never) == [0.0, 0.0]


def test_final_accuracy_pays_the_last_look_alone():
    assert total("final-accuracy", [(2, 0.1, 0), (1, 0.9, 0.5), (1, 0.6, 1)]) == [0.0, 0.6]


@pytest.mark.parametrize("name", ["validation-loss", "final-accuracy", "time-to-accuracy"])
def test_centered_the_control_itself_earns_nothing(name):
    points = [(CURVE.loss_at(s), CURVE.accuracy_at(s), s) for s in SPENT]
    assert sum(total(name, points, curve=CURVE, target=0.4)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ["validation-loss", "final-accuracy", "time-to-accuracy"])
def test_centered_unspent_budget_is_held_against_the_whole_control(name):
    nothing = [(2.0, 0.0, 0.0), (2.0, 0.0, 0.0)]
    better = [(2.0, 0.0, 0.0), (0.5, 0.9, 0.2), (0.4, 0.95, 1.0)]
    assert sum(total(name, nothing, curve=CURVE, target=0.4)) < -0.3
    assert sum(total(name, better, curve=CURVE, target=0.4)) > 0.1


def test_a_meter_goes_on_where_it_was():
    meter = RewardMeter("time-to-accuracy", target=0.5)
    meter.begin(2.0, 0.1, 0.0)
    meter.reward(1.0, 0.6, 0.3, done=False)
    other = RewardMeter("time-to-accuracy", target=0.5)
    other.load_state_dict(meter.state_dict())
    assert other.reward(1.0, 0.1, 0.9, done=True) == pytest.approx(-math.log(0.3))


def test_wrong_names_and_targets_are_refused():
    with pytest.raises(ValueError, match=r"did you mean 'final-accuracy'"):
        RewardMeter("final-acuracy")
    with pytest.raises(ValueError, match="target_accuracy"):
        RewardMeter("none", target=0.0)
    assert set(REWARDS) < set(AGENT_REWARDS)
