"""Every option of every policy does something: it changes what is needed, or an answer."""

from __future__ import annotations

import functools
import inspect

import numpy as np
import pytest

from gstds.policies import Transition, make_policy
from gstds.policies.registry import POLICIES, policy_class
from gstds.selection.schedules import make_schedule
from tests.policies.settings import CONTEXT, N, observation

OTHER = {
    "a": 4.0,
    "affinity": "clamp",
    "algorithm": "ducb",
    "beta": 3.0,
    "chunks": 2,
    "delta": 0.3,
    "doubt": 0.9,
    "draw": "thompson",
    "embedding": "random-walk",
    "exploration": 0.9,
    "floor": 5.0,
    "gap": 0.9,
    "groups": 3,
    "high": 0.3,
    "history": 30,
    "end": 0.6,
    "interrupt": 3,
    "interval": 9,
    "keep": 0.7,
    "laplacian": {"unnormalized": "normalized", "normalized": "unnormalized"},
    "loss_weighting": "uniform",
    "low": 0.28,
    "measure": "entropy",
    "memory": 0.3,
    "multiple": 2.0,
    "per": "epoch",
    "picker": "uniform",
    "prune": 0.5,
    "rate": 0.2,
    "ratios": [0.15, 0.25, 0.35, 0.5, 0.7],
    "refresh": 9,
    "revision": 5,
    "ridge": 9.0,
    "schedule": make_schedule("constant", keep=0.3),
    "score": "raw",
    "score_share": 0.9,
    "share": 0.3,
    "solver": "matrix-free",
    "start": 0.3,
    "step": 0.3,
    "temperature": 0.2,
    "threshold": 0.9,
    "weight": 1.5,
    "window": 0.3,
}
CASES = [
    (name, option)
    for name in POLICIES
    for option, parameter in inspect.signature(policy_class(name)).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
]
OF_ONE = {
    ("budget", "low"): 0.3,
    ("gradient-noise", "low"): 0.9,
    ("kakurenbo", "share"): 0.6,
    ("linucb", "exploration"): 0.0,
    ("plateau", "low"): 0.4,
}
BESIDE = {("bandit", "memory"): {"algorithm": "ducb"}, ("budget", "low"): {"share": 0.45}}
"""Options that do something beside others alone."""


@functools.cache
def usual_course(name, *beside):
    return course(name, **dict(beside))


def course(name, **options):
    """What a policy needs, and its answers while it learns from steps that are always the same."""
    policy = make_policy(name, **options)
    policy.reset(0, CONTEXT)
    rng = np.random.default_rng(0)
    answers = []
    for t in range(90):
        now, then = (observation(policy, s, progress=s / 100) for s in (t, t + 1))
        wrong = np.arange(N) % 5 == t % 5
        now["reference_losses"] = np.where(wrong, 2.5, 0.05 + 0.2 * rng.random(N)).astype(
            np.float32
        )
        then["train_loss"][:] = max(0.4, np.exp(-0.02 * t))  # falls, then stalls
        now["mean_last_loss"][:] = 1.2 - 0.01 * t
        then["mean_last_loss"][:] = 1.2 - 0.01 * t - 0.02 * rng.random()
        if "validation_loss" in then:
            then["validation_loss"][:] = 1.0 + 0.01 * t
        weights = policy.act(now)
        answers.append(weights)
        told = rng.random(N).astype(np.float32)
        info = {"losses": told, "trained": weights > 0, "evaluate": True}
        policy.learn(Transition(now, weights, float(rng.normal()), then, info))
    return str(policy.needs), np.stack(answers)


@pytest.mark.parametrize(("name", "option"), CASES, ids=lambda value: str(value))
def test_an_option_changes_what_is_needed_or_an_answer(name, option):
    beside = BESIDE.get((name, option), {})
    usual = inspect.signature(policy_class(name)).parameters[option].default
    other = OF_ONE.get((name, option), OTHER[option])
    value = other[usual] if isinstance(other, dict) else other
    assert value != usual
    needs, answers = usual_course(name, *beside.items())
    changed_needs, changed = course(name, **beside, **{option: value})
    assert changed_needs != needs or not np.array_equal(changed, answers)
