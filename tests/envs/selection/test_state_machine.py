"""DataSelection-v0 under any sequence of legal and illegal calls, drawn by hypothesis."""

from __future__ import annotations

import functools
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gstds.common.state import latest_state, save_state
from gstds.envs import DataSelectionEnv
from tests.counts import counts

N = 8
WORLDS = {
    "equal epochs": {"epochs": 2, "reward": "none", "observe": ("learner_losses",)},
    "equal budget": {"epochs": 2, "setting": "equal-budget", "budget": 0.4, "observe": ()},
    "soon truncated": {"epochs": 3, "setting": "equal-budget", "max_draws": 5, "observe": ()},
}


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory):
    """Write 60 images in 2 classes; the last batch of an epoch is short."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    y = np.arange(60) % 2
    images = np.random.default_rng(0).integers(0, 99, (60, 4, 4)) + 150 * y[:, None, None]
    np.savez(path, X=images.astype(np.uint8), y=y)
    Machine.data = f"npz:{path}"
    pair.cache_clear()


@functools.cache
def pair(world: str, data: str) -> tuple[DataSelectionEnv, DataSelectionEnv]:
    options = {"dataset": data, "batch_size": N, "learner": "mlp", **WORLDS[world]}
    return DataSelectionEnv(**options), DataSelectionEnv(**options)


def frozen(value):
    """Return a nested state in a form in which ``==`` compares all of it, bit by bit."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {str(key): frozen(item) for key, item in value.items() if key != "seconds"}
    if isinstance(value, list | tuple):
        return [frozen(item) for item in value]
    return repr(value)


legal_weights = st.one_of(
    st.lists(st.floats(0, 1, width=32), min_size=N, max_size=N),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=N, max_size=N),
    st.sampled_from([[0.0] * N, [1.0] * N, [1e-38] * N, [True] * N, [1] + [0] * (N - 1)]),
)
wrong_number = st.sampled_from([float("nan"), float("inf"), -float("inf"), -1e-3, 1.5, 1e30])
illegal_actions = st.one_of(
    st.builds(
        lambda weights, at, wrong: [*weights[:at], wrong, *weights[at + 1 :]],
        st.lists(st.floats(0, 1, width=32), min_size=N, max_size=N),
        st.integers(0, N - 1),
        wrong_number,
    ),
    st.lists(st.floats(0, 1), max_size=N - 1),
    st.lists(st.floats(0, 1), min_size=N + 1, max_size=2 * N),
    st.sampled_from([None, "keep", 1.0, ["a"] * N, [[1.0] * N], np.ones((N, 1)), [1j] * N, {}]),
)


class Machine(RuleBasedStateMachine):
    """One environment, and a twin that takes up its state."""

    data = ""

    @initialize(world=st.sampled_from(sorted(WORLDS)), seed=st.integers(0, 2**31))
    def begin(self, world, seed):
        self.env, self.twin = pair(world, self.data)
        self.observation, self.info = self.env.reset(seed=seed)
        self.done = False

    @rule(seed=st.one_of(st.none(), st.integers(0, 2**40)))
    def reset(self, seed):
        self.observation, self.info = self.env.reset(seed=seed)
        self.done = False
        assert self.info["step"] == 0

    @precondition(lambda self: not self.done)
    @rule(weights=legal_weights, kind=st.sampled_from([np.float32, np.float64, list]))
    def step(self, weights, kind):
        before, spent = self.info, self.env.ledger.charged_flops
        action = weights if kind is list else np.array(weights, dtype=kind)
        self.observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.done = terminated or truncated
        assert isinstance(reward, float)
        assert np.isfinite(reward)
        assert self.info["kept"] <= self.info["drawn"] <= N
        assert self.info["progress"] >= before["progress"]
        assert self.env.ledger.charged_flops >= spent
        if self.env.options.setting == "equal-budget":
            assert self.env.ledger.charged_flops <= self.env.budget_flops * (1 + 1e-9)

    @rule(action=illegal_actions)
    def step_illegally(self, action):
        before = frozen(self.env.state_dict())
        with pytest.raises(RuntimeError if self.done else ValueError):
            self.env.step(action)
        self._unchanged(before)

    @precondition(lambda self: self.done)
    @rule(weights=legal_weights)
    def step_after_the_end(self, weights):
        before = frozen(self.env.state_dict())
        with pytest.raises(RuntimeError, match="call reset first"):
            self.env.step(np.array(weights, np.float32))
        self._unchanged(before)

    @rule(options=st.sampled_from([{"seed": 1}, {"a": None}]))
    def reset_illegally(self, options):
        before = frozen(self.env.state_dict())
        with pytest.raises(ValueError, match="reset takes no options"):
            self.env.reset(options=options)
        self._unchanged(before)

    @rule(missing=st.sampled_from(["learner", "trainer", "step_count", "run_seed", "np_random"]))
    def load_illegally(self, missing):
        before = frozen(self.env.state_dict())
        state = self.env.state_dict()
        del state[missing]
        with pytest.raises(ValueError, match=missing):
            self.env.load_state_dict(state)
        self._unchanged(before)

    @rule(weights=legal_weights)
    def take_up_the_state_elsewhere(self, weights):
        with TemporaryDirectory() as folder:
            save_state(folder, self.info["step"], self.env.state_dict())
            seen = self.twin.load_state_dict(latest_state(folder))
        assert frozen(seen) == frozen(self.observation)
        assert frozen(self.twin.state_dict()) == frozen(self.env.state_dict())
        if not self.done:
            theirs = self.twin.step(np.array(weights, np.float32))
            ours = self.env.step(np.array(weights, np.float32))
            assert frozen(theirs) == frozen(ours)
            self.observation, _, terminated, truncated, self.info = ours
            self.done = terminated or truncated
            assert frozen(self.twin.state_dict()) == frozen(self.env.state_dict())

    @invariant()
    def what_is_seen_lies_in_the_space(self):
        if hasattr(self, "observation"):
            assert self.env.observation_space.contains(self.observation)

    def _unchanged(self, before):
        assert frozen(self.env.state_dict()) == before
        assert frozen(self.env.observation()) == frozen(self.observation)


def test_an_evaluation_never_takes_what_the_next_batch_needs():
    # Found by the machine below: the fourth batch, after an evaluation, went 1.9% over the budget.
    env, _ = pair("soon truncated", Machine.data)
    env.reset(seed=326)
    done = False
    for kept in (7, 6, 6, 8, 8):
        if not done:
            *_, terminated, truncated, _ = env.step((np.arange(N) < kept).astype(np.float32))
            done = terminated or truncated
        assert env.ledger.charged_flops <= env.budget_flops
    assert done
    assert env.ledger.charged_flops > env.budget_flops - 2 * env.sample_flops


@counts(slow=40, soak=2000)
def test_any_sequence_of_calls_is_obeyed_or_refused_without_a_trace(cases):
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=cases, stateful_step_count=30)
    )
