"""A selector's state: a snapshot that any checkpoint takes, of its own run alone."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from test_selector import CLASSES, N, run, selector

from gstds.common.state import portable, restored
from gstds.policies import Policy, make_policy

ADAPTIVE = ["bandit", "linucb", "budget", "plateau"]
NAMES = ["random", "infobatch", "stale-selective-backprop", "best", *ADAPTIVE]


def chooser(name, **options):
    policy = make_policy(name, picker="uniform") if name in ADAPTIVE else name
    made = selector(policy=policy, **options)
    made.observe_validation(2.0, 0.1)
    return made


def through_torch(state, path):
    torch.save(state, path)
    return torch.load(path, weights_only=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_from_what_torch_loads_by_default(name, tmp_path):
    whole, part, resumed = (chooser(name) for _ in range(3))
    expected = run(whole, 9)
    run(part, 4)
    resumed.load_state_dict(through_torch(part.state_dict(), tmp_path / "state.pt"))
    assert run(resumed, 5) == expected[4:]


def test_a_state_is_not_changed_by_what_comes_later():
    one = chooser("bandit")
    one.select(np.arange(20))
    state = one.state_dict()
    kept = copy.deepcopy(state)
    one.observe_losses(np.arange(20), np.full(20, 0.5))
    assert torch.equal(state["last"]["losses"], kept["last"]["losses"])
    other = chooser("bandit")
    other.load_state_dict(state)
    other.observe_losses(np.arange(20), np.full(20, 0.5))
    other.observe_losses(np.arange(20), np.full(20, 9.0))
    for part in ("last", "memory"):
        for name in ("losses", "last_losses"):
            if name in state[part]:
                assert torch.equal(state[part][name], kept[part][name])


def test_arrays_stand_for_tensors_and_a_policys_own_tensors_stay():
    value = {"a": np.arange(3), "b": (torch.ones(2), [np.float32(0.5), 2**100, None])}
    back = restored(portable(value))
    assert isinstance(back["a"], np.ndarray)
    assert isinstance(back["b"][0], torch.Tensor)
    assert back["b"][1] == [0.5, 2**100, None]
    one, other = chooser("best"), chooser("best")
    expected = run(one, 2)
    state = chooser("best")
    run(state, 1)
    other.load_state_dict(restored(state.state_dict()))
    assert run(other, 1) == expected[1:]


class Holding(Policy):
    def act(self, observation):
        return np.ones(len(observation["valid"]))

    def state_dict(self):
        return {"held": object()}

    def load_state_dict(self, state):
        raise NotImplementedError


@pytest.mark.told("Policies and plug-ins", "`state_dict` returns `{{'held': object()}}`")
def test_a_policys_state_that_no_checkpoint_takes_is_named():
    with pytest.raises(TypeError, match="state of policy 'Holding'/held must be an array"):
        selector(policy=Holding()).state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "best"}, "the state is of policy_class 'Random', this selector of 'Best"),
        ({"labels": np.arange(40) % CLASSES, "reference_losses": None},
         "the state is of num_samples 60, this selector of 40"),
        ({"num_classes": 9}, "the state is of num_classes 4, this selector of 9"),
        ({"seed": 5}, "the state is of seed 0, this selector of 5"),
    ],
)  # fmt: skip
@pytest.mark.told(
    "Loops of your own", "a state of `Selector('random', …)` of 60 samples; here `{options}`"
)
def test_another_runs_state_is_refused_and_changes_nothing(options, message):
    saved = selector()
    run(saved, 3)
    other = selector(**{"policy": "random"} | options)
    other.observe_validation(1.0)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(saved.state_dict())
    assert other.step == 0
    assert other.state_dict()["memory"]["visits"].sum() == 0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"schedule": "constant", "keep": 0.3}, {"schedule": "constant", "keep": 0.6},
         r"schedule Constant\(ratio=0\.3\) -> Constant\(ratio=0\.6\);"),
        ({"policy": make_policy("infobatch")}, {"policy": make_policy("infobatch", rate=0.2)},
         r"rate 0\.5 -> 0\.2;"),
        ({"batch_size": 20}, {"batch_size": 30}, "batch_size 20 -> 30;"),
    ],
)  # fmt: skip
def test_another_parameter_is_told_of_and_holds(before, after, message):
    saved, resumed = selector(**before), selector(**after)
    run(saved, 3)
    with pytest.warns(UserWarning, match=f"was made otherwise: {message} .*made with holds"):
        resumed.load_state_dict(saved.state_dict())
    fresh = selector(**after)
    run(fresh, 3)
    now, other = (
        [len(one.select(np.arange(60))[0]), one.state_dict()["batch_size"]]
        for one in (resumed, fresh)
    )
    if "rate" not in message:
        assert now == other
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = selector(**after)
        again.load_state_dict(resumed.state_dict())


@pytest.mark.told(
    "Loops of your own",
    "`load_state_dict({{}})`",
    "`load_state_dict([])`",
    "a state whose `visits` are 7",
)
def test_what_is_no_state_is_refused():
    one = selector()
    with pytest.raises(ValueError, match="the state has no entry 'policy_class'"):
        one.load_state_dict({})
    with pytest.raises(TypeError, match="state must be what state_dict returned, got list"):
        one.load_state_dict([])
    state = one.state_dict()
    state["memory"]["visits"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"visits must have shape \(60,\), got \(7,\)"):
        one.load_state_dict(state)


@pytest.mark.told("Policies and plug-ins", "a state that the policy cannot take up")
def test_a_state_that_the_policy_refuses_changes_nothing():
    expected, one = chooser("infobatch"), chooser("infobatch")
    run(expected, 4)
    run(one, 4)
    state = chooser("infobatch").state_dict() | {"policy": {"steps": 0}, "begun": True}
    state["batch_size"] = 20
    with pytest.raises(ValueError, match=r"taken up by policy 'infobatch': KeyError: 'losses'"):
        one.load_state_dict(state)
    assert run(one, 3) == run(expected, 3)


def test_the_number_of_samples_is_in_the_state():
    assert selector().state_dict()["num_samples"] == N
