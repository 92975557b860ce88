"""The checks of a policy of one's own: each wrong policy is found, and told how to be mended."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch

from gstds import KeepRatioPolicy, Policy
from gstds.testing import check_policy, examine
from tests.policies.settings import SETTINGS
from tests.told import note


def half(observation, share=0.5):
    return (observation["valid"] * (observation["noise"] < share)).astype(np.float32)


class Right(Policy):
    """Nothing is wrong with it: it learns from the reward and remembers what it learned."""

    state = ("_share",)
    uses_reward = True

    def reset(self, seed, context):
        self._share = 0.5

    def act(self, observation):
        return half(observation, self._share)

    def learn(self, transition):
        self._share = float(np.clip(self._share + 0.1 * transition.reward, 0.2, 0.9))


class Undeclared(Policy):
    def act(self, observation):
        both = observation["learner_losses"] + observation.get("reference_losses")
        return half(observation) * (both >= 0)


class RewardNotAskedFor(Right):
    uses_reward = False


class RewardNotRead(Policy):
    uses_reward = True

    def act(self, observation):
        return half(observation)


class RewardWithoutEffect(RewardNotRead):
    def learn(self, transition):
        assert transition.reward is not None


class NumpysGenerator(Policy):
    def act(self, observation):
        drawn = np.random.rand(len(observation["valid"]))  # noqa: NPY002
        return (observation["valid"] * (drawn < 0.5)).astype(np.float32)


class PythonsGenerator(Policy):
    def act(self, observation):
        return half(observation, random.random())


class SeedsTheGlobalOne(Policy):
    def act(self, observation):
        random.seed(0)
        return half(observation, random.random())


class NetworkFromTheGlobalOne(Policy):
    def reset(self, seed, context):
        self._network = torch.nn.Linear(1, 1)

    def act(self, observation):
        return half(observation)


class ChangesItsNeeds(Policy):
    def reset(self, seed, context):
        self.needs = {"learner_losses": {}}

    def act(self, observation):
        return half(observation)


class ReadsUndeclaredLate(Policy):
    def act(self, observation):
        late = observation["progress"][0] > 0.7
        return half(observation) * (observation["learner_losses" if late else "age"] >= 0)


class TakesAway(Policy):
    def act(self, observation):
        observation.pop("labels")
        return half(observation)


class NamesWhatIsAlwaysThere(Policy):
    needs = {"labels": {}}  # noqa: RUF012

    def act(self, observation):
        return half(observation)


class NamesNoState(Policy):
    state = ("_cuont",)

    def reset(self, seed, context):
        self._count = 0

    def act(self, observation):
        return half(observation)


class WithItsState(Policy):
    def act(self, observation):
        return half(observation), None


class BreaksTorch(Policy):
    def act(self, observation):
        torch.set_default_dtype(torch.float64)
        return half(observation)


class Clock(Policy):
    def act(self, observation):
        return half(observation, time.perf_counter() * 1e4 % 1)


class Forgets(Policy):
    def reset(self, seed, context):
        self._count = 0

    def act(self, observation):
        self._count += 1
        return half(observation, 1 / self._count)


class RemembersInTheClass(Policy):
    seen: list = []  # noqa: RUF012

    def act(self, observation):
        self.seen.append(1)
        return half(observation, 1 / len(self.seen))


class SavesAFunction(Policy):
    state = ("_rule",)

    def reset(self, seed, context):
        self._rule = lambda: 0.5

    def act(self, observation):
        return half(observation, self._rule())


class FirstFive(Policy):
    def act(self, observation):
        return (np.arange(len(observation["valid"])) < 5) * observation["valid"]


class Padding(Policy):
    def act(self, observation):
        return np.append(half(observation)[:-1], np.float32(1))


class Unread(Policy):
    needs = {"spectral_scores": {}}  # noqa: RUF012

    def act(self, observation):
        return half(observation)


class WritesIntoWhatItSees(Policy):
    def act(self, observation):
        observation["last_losses"][:] = 0
        return half(observation)


class TooLarge(Policy):
    def act(self, observation):
        return 2 * half(observation)


class Raises(Policy):
    def act(self, observation):
        raise RuntimeError("my bug")


class NoShareAtTheEnd(KeepRatioPolicy):
    def keep_ratio(self, observation):
        return 1.5 if observation["progress"][0] > 0.8 else 0.3


class Nothing(Policy):
    def act(self, observation):
        return np.zeros(len(observation["valid"]))


WRONG = {
    Undeclared: ("needs = {'reference_losses': {}, 'learner_losses': {}}", "act"),
    RewardNotAskedFor: ("uses_reward = True", "learn"),
    RewardNotRead: ("never reads transition.reward", None),
    RewardWithoutEffect: ("other rewards teach the same", "learn"),
    NumpysGenerator: ("global generator of numpy", "act"),
    PythonsGenerator: ("global generator of random", "act"),
    SeedsTheGlobalOne: ("global generator of random", "act"),
    NetworkFromTheGlobalOne: ("torch.random.fork_rng()", None),
    ChangesItsNeeds: ("reset changes needs, by which the environment was made", "reset"),
    ReadsUndeclaredLate: ("add to the class: needs = {'learner_losses': {}}", "act"),
    TakesAway: ("act changes the arrays", "act"),
    NamesWhatIsAlwaysThere: ("'labels' is not to be named; it is always there", None),
    NamesNoState: ("did you mean '_count'", None),
    WithItsState: ("weights must have shape (32,), got tuple", "act"),
    BreaksTorch: ("must have the same dtype", None),
    Clock: ("two runs of one seed", "act"),
    Forgets: ("state = ('_count',)", "act"),
    RemembersInTheClass: ("two runs of one seed", "act"),
    SavesAFunction: ("'policy/_rule' cannot be saved", None),
    FirstFive: ("in another order", "act"),
    Padding: ('multiply by observation["valid"]', "act"),
    Unread: ("needs declares spectral_scores", "act"),
    WritesIntoWhatItSees: ("act changes the arrays", "act"),
    TooLarge: ("declare a larger max_weight", "act"),
    Raises: ("RuntimeError: my bug", "act"),
    NoShareAtTheEnd: ("keep_ratio must be in [0, 1], got 1.5", "keep_ratio"),
    Nothing: ("nothing was kept", "act"),
}


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
@pytest.mark.told("Policies and plug-ins", "`gstds check`: {id}")
def test_what_is_wrong_is_found_with_its_line(kind):
    text, method = WRONG[kind]
    try:
        found = check_policy(kind)
    finally:
        torch.set_default_dtype(torch.float32)
    assert any(text.replace("_rule", "rule") in str(one) for one in found), found
    note(next(one.what for one in found if text.replace("_rule", "rule") in str(one)))
    line = kind if method is None else getattr(kind, method)
    assert all(__file__.endswith(one.where.rpartition(":")[0]) for one in found)
    if method:
        first = line.__code__.co_firstlineno
        last = max(n for *_, n in line.__code__.co_lines() if n)
        assert any(first <= int(one.where.rpartition(":")[2]) <= last for one in found)


def test_nothing_is_found_where_nothing_is_wrong():
    assert check_policy(Right) == []


# One of each kind; that each policy keeps the contract, tests/policies shows too.
QUICK = ("bandit", "best", "gstds", "infobatch", "k-center", "random")


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in SETTINGS],
)
def test_every_shipped_policy_passes(name):
    report = examine(name)
    assert report.findings == []
    assert len(report.passed) == 8
    assert 0 < report.figures["mean_keep"] <= 1


def test_what_cannot_be_made_is_a_finding():
    (found,) = check_policy("gsdts")
    assert "unknown name 'gsdts'" in found.what
