"""Every policy of the settings table in a short training run on digits."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from gstds.common.noise import policy_seed
from gstds.common.state import latest_state, save_state, state_digest
from gstds.policies import KeepRatioPolicy, RunContext, Transition
from gstds.selection.weights import kept_count
from gstds.train.running.options import config_from
from gstds.train.running.setup import make_env, make_run_policy
from tests.policies import settings
from tests.policies.settings import ALWAYS, SETTINGS

DIGITS = {
    "dataset": "digits",
    "limit": 200,  # the last batch of an epoch is short
    "learner": "mlp",
    "optimizer": "adamw",
    "batch_size": 32,
    "epochs": 4,
    "reference": f"{settings.__name__}:pixels",
}
SPECTRAL = {"lambda2", "eigengap", "effective_nodes"}
KEEPS_ALL = {"full"}
KEEPS_UNLEARNED = {"kakurenbo", "pdd", "stale-pdd"}  # which in so short a run may be everything
STOP = 9


def plain(value):
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


class Watched(dict):
    """An observation that notes what is read of it."""

    def __init__(self, values, read):
        super().__init__(values)
        self.read = read

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


@dataclass
class Run:
    """A run, its policy, and what was seen of both."""

    env: object
    policy: object
    seen: dict
    shown: set = field(default_factory=set)
    read: set = field(default_factory=set)
    steps: list = field(default_factory=list)
    states: list = field(default_factory=list)

    def go_on(self, steps=10**9):
        done = False
        while not done and len(self.steps) < steps:
            view = Watched(self.seen, self.read)
            self.shown |= set(view)
            wanted = self._wanted(view)
            weights = self.policy.act(view)
            following, reward, terminated, truncated, info = self.env.step(weights)
            self.policy.learn(Transition(view, weights, reward, following, info))
            self.steps.append((wanted, weights, info))
            self.states.append(json.dumps(plain(self.policy.state_dict())))
            self.seen, done = following, terminated or truncated
        return self

    def _wanted(self, view):
        """How many an exact picker must keep; asked of a twin, for asking may count."""
        policy = self.policy
        exact = isinstance(policy, KeepRatioPolicy) and policy.picker.exact
        if not exact or type(policy).act is not KeepRatioPolicy.act:
            return None
        twin = make_run_policy(config_from(DIGITS | {"policy": self.name}))
        twin.reset(0, RunContext(**self.env.context()))
        twin.load_state_dict(policy.state_dict())
        return kept_count(twin.keep_ratio(view), int(view["valid"].sum()))

    @property
    def name(self):
        return self.env.policy_name

    @property
    def digest(self):
        return state_digest(self.env.learner.model.state_dict())


def begin(name, **more):
    config = config_from(DIGITS | {"policy": name} | more)
    policy = make_run_policy(config)
    env = make_env(config, policy)
    env.policy_name = name
    seen, _ = env.reset(seed=5)
    policy.reset(policy_seed(5), RunContext(**env.context()))
    return Run(env, policy, seen)


@functools.cache
def whole(name):
    return begin(name).go_on()


@pytest.fixture(params=SETTINGS)
def name(request):
    return request.param


def test_what_is_shown_is_what_was_declared_and_all_of_it_is_read(name):
    run = whole(name)
    needs = set(run.policy.needs)
    assert run.shown == ALWAYS | needs | (SPECTRAL if "spectral_scores" in needs else set())
    assert needs <= run.read


def test_it_really_prunes_step_by_step(name):
    run = whole(name)
    for wanted, weights, info in run.steps:
        drawn = info["drawn"]
        kept = int((weights[:drawn] > 0).sum())
        assert info["kept"] == kept == int(info["trained"].sum())
        assert not weights[drawn:].any()
        assert wanted is None or kept == wanted
        assert info["keep_ratio"] == kept / drawn
    total = sum(info["kept"] for *_, info in run.steps)
    drawn = sum(info["drawn"] for *_, info in run.steps)
    assert drawn == DIGITS["epochs"] * DIGITS["limit"]
    assert run.env.visits.sum() == total
    most = drawn if name in KEEPS_UNLEARNED else 0.95 * drawn
    assert total == drawn if name in KEEPS_ALL else 0 < total <= most
    assert run.env.ledger.flops["train"] == total * run.env.sample_flops


@pytest.mark.slow
def test_it_learns_digits(name):
    run = begin(name, limit=None, epochs=8, reference="untrained")
    before = run.env.monitor("test")
    after = run.go_on().env.monitor("test")
    assert after.loss < before.loss
    assert after.accuracy > 0.5


def test_a_stopped_run_goes_on_from_disk_as_if_it_had_not_stopped(name, tmp_path):
    run = begin(name).go_on(STOP)
    save_state(tmp_path, STOP, {"env": run.env.state_dict(), "policy": run.policy.state_dict()})
    resumed = begin(name)
    saved = latest_state(tmp_path)
    resumed.seen = resumed.env.load_state_dict(saved["env"])
    resumed.policy.load_state_dict(saved["policy"])
    resumed.go_on()
    assert resumed.digest == whole(name).digest
    for mine, other in zip(resumed.steps, whole(name).steps[STOP:], strict=True):
        np.testing.assert_array_equal(mine[1], other[1])
    assert resumed.states == whole(name).states[STOP:]
    assert resumed.env.ledger.charged_flops == whole(name).env.ledger.charged_flops


def test_a_policy_that_learns_has_a_state_that_moves(name):
    run = whole(name)
    remembers = bool(run.policy.state_dict())
    assert (len(set(run.states)) > 1) == remembers, "state_dict must hold what learn changes"
