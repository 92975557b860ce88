"""The environment charges what a policy says that its own arithmetic takes."""

from __future__ import annotations

import numpy as np
import pytest

from gstds.envs import DataSelectionEnv
from gstds.selection.weights import k_center_flops
from gstds.train.running.options import config_from
from gstds.train.running.run import RunFailedError, execute
from gstds.train.running.setup import make_env, make_run_policy

SMALL = {"dataset": "digits", "limit": 300, "learner": "mlp", "batch_size": 32, "epochs": 3}


def bare(tiny_npz, policy_flops, **options):
    return DataSelectionEnv(
        dataset=tiny_npz,
        learner="mlp",
        batch_size=32,
        observe=(),
        reward="none",
        policy_flops=policy_flops,
        **options,
    )


def test_it_is_told_drawn_kept_and_the_runs_facts_and_charges_before_training(tiny_npz):
    asked = []

    def flops(drawn, kept, context):
        asked.append((drawn, kept, context["sample_flops"], context["batch_size"]))
        return 5.0 * drawn + kept

    env = bare(tiny_npz, flops, epochs=1)
    env.reset(seed=0)
    asked.clear()
    weights = np.zeros(32, np.float32)
    weights[:7] = 1
    info = env.step(weights)[-1]
    assert asked == [(32, 7, env.sample_flops, 32)]
    assert env.ledger.flops["policy"] == 5 * 32 + 7
    assert info["charged_flops"] == 7 * env.sample_flops + 5 * 32 + 7
    env.step(np.zeros(32, np.float32))
    assert env.ledger.flops["policy"] == 2 * 5 * 32 + 7


@pytest.mark.parametrize("price", [0.05, 0.7, 3.0])
@pytest.mark.parametrize("keep", [0, 5, 32])
def test_an_equal_budget_is_never_overspent_whatever_deciding_costs(tiny_npz, price, keep):
    def flops(drawn, kept, context):
        return price * (drawn + kept) / 2 * context["sample_flops"]

    env = bare(tiny_npz, flops, epochs=4, setting="equal-budget", budget=0.6)
    env.reset(seed=0)
    terminated = truncated = False
    weights = np.zeros(32, np.float32)
    weights[:keep] = 1
    while not (terminated or truncated):
        _, _, terminated, truncated, _ = env.step(weights)
    assert env.ledger.charged_flops <= env.budget_flops
    assert env.ledger.flops["policy"] > 0
    assert terminated
    assert env.budget_flops - env.ledger.charged_flops < 2 * env.sample_flops


def test_a_budget_that_does_not_pay_for_one_batch_and_its_choice_is_refused(tiny_npz):
    def dear(drawn, kept, context):
        return 5.0 * drawn * context["sample_flops"]

    options = {"epochs": 4, "setting": "equal-budget", "budget": 0.3}
    bare(tiny_npz, None, **options)
    with pytest.raises(ValueError, match=r"less than one batch with its evaluations"):
        bare(tiny_npz, dear, **options)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "many"])
def test_operations_that_are_none_are_refused_before_the_run(tiny_npz, value):
    with pytest.raises((ValueError, TypeError), match="step_flops must be"):
        bare(tiny_npz, lambda drawn, kept, context: value, epochs=1)


def test_a_run_of_k_center_is_charged_for_its_distances(tmp_path):
    config = config_from(SMALL | {"policy": "k-center"})
    result = execute(config, tmp_path)
    kept = np.unpackbits(np.load(tmp_path / "kept.npz")["kept"], axis=1).sum(1)
    env = make_env(config, make_run_policy(config))
    drawn = [len(env.draws.batch(step)) for step in range(env.total_steps)]
    dim = env.task.reference.store.dim
    expected = sum(k_center_flops(n, int(k), dim) for n, k in zip(drawn, kept, strict=True))
    assert result["flops_by_phase"]["policy"] == expected
    phases = ("train", "score", "spectral", "evaluate", "policy")
    total = sum(result["flops_by_phase"][phase] for phase in phases)
    assert result["charged_flops"] == total


def test_a_plug_in_whose_cost_fails_later_is_told_by_name(tiny_npz, tmp_path, monkeypatch):
    (tmp_path / "costly.py").write_text(
        "from gstds.policies import KeepRatioPolicy\n"
        "class Costly(KeepRatioPolicy):\n"
        "    picker = None\n"
        "    def keep_ratio(self, observation): return 0.5\n"
        "    def step_flops(self, drawn, kept, context): return drawn - 2.0 * (kept == 16)*drawn\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = config_from(
        {"dataset": tiny_npz, "learner": "mlp", "batch_size": 32, "policy": "costly:Costly"}
    )
    with pytest.raises(
        RunFailedError, match=r"step_flops of policy 'costly:Costly' must be in .*got -32"
    ):
        execute(config, tmp_path / "run")
