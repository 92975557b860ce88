from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstds.observation.gradient_noise import NoiseScale, noise_samples, noise_share
from gstds.policies import Selector, Transition, make_policy
from gstds.selection.control import PlateauWatch, RiseWatch, gap_ratio, noise_ratio, spread_ratio
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from tests.policies.settings import CONTEXT, N, make, observation
from tests.stops import StopAfter

ADAPTIVE = ["plateau", "loss-gap", "gradient-noise", "budget", "bandit"]


def step(policy, train_loss=1.0, reward=0.0, kept=N, **changed):
    """Let a policy see a step that ended with the given training loss."""
    before, after = observation(policy), observation(policy)
    after["train_loss"] = np.array([train_loss], np.float32)
    for name, value in changed.items():
        after[name] = np.array([value], np.float32)
    weights = (np.arange(N) < kept).astype(np.float32)
    policy.learn(Transition(before, weights, reward, after, {"evaluate": reward != 0.0}))
    return after


def ratio(policy, **changed):
    view = observation(policy)
    for name, value in changed.items():
        view[name] = np.array([value], np.float32)
    return policy.keep_ratio(view)


# ---------------------------------------------------------------------- plateau


def test_plateau_rises_when_the_loss_stalls_and_not_while_it_falls():
    falling, stalled = make("plateau"), make("plateau")
    for t in range(30):
        step(falling, 2.0 * 0.9**t)
        step(stalled, 2.0)
    assert ratio(falling) == pytest.approx(0.2)
    assert ratio(stalled) == pytest.approx(0.5)  # three windows of a tenth of 100 steps
    for _ in range(200):
        step(stalled, 2.0)
    assert ratio(stalled) == 0.9


def test_plateau_takes_no_loss_from_a_step_without_an_update():
    policy = make("plateau")
    for _ in range(30):
        step(policy, 2.0, kept=0)
    assert ratio(policy) == pytest.approx(0.2)


def test_a_plateau_is_told_from_half_a_window_against_the_other():
    watch = PlateauWatch(5, 0.1)
    assert [watch.stalled(x) for x in (2.0, 2.0, 9.0, 1.8, 1.7)] == [False] * 5
    assert [watch.stalled(x) for x in (2.0, 2.0, 0.0, 1.8, 1.9)] == [False] * 4 + [True]


# ---------------------------------------------------------------------- steps too large


def seen(losses, classes=10, size=8):
    watch, counts = RiseWatch(classes), []
    for loss in losses:
        watch.take(np.full(size, loss))
        counts.append(watch.rises)
    return counts


def test_a_rise_is_counted_once_it_is_above_both_bounds():
    assert seen([2.0] * 50 + [1.0] * 300)[-1] == 0
    counts = seen([1.0] * 200 + [1.4] * 300)  # its mean ends at 1.4: above 1.35, and by over .23
    assert counts[200] == 0
    assert counts[-1] == 1
    assert seen([1.0] * 200 + [1.3] * 300)[-1] == 0
    assert seen([0.1] * 200 + [0.3] * 300)[-1] == 0  # three times, but by .2
    assert seen([0.1] * 200 + [0.3] * 300, classes=4)[-1] == 1


def test_a_small_batch_counts_as_little_as_it_holds():
    watch = RiseWatch(10)
    for _ in range(100):
        watch.take(np.full(64, 0.5))
    watch.take([20.0] * 7)
    watch.take([])
    watch.take([np.nan])
    assert watch.rises == 0
    watch.take(np.full(8, 20.0))
    assert watch.rises == 1


def test_a_learner_that_is_surely_wrong_is_seen_at_once_and_once():
    log_classes = float(np.log(10))
    assert seen([log_classes, 1.45 * log_classes])[-1] == 0
    assert seen([log_classes, 1.55 * log_classes]) == [0, 1]
    # The spike goes on for a while: one rise, and another if it has not ended after 8 batches.
    assert seen([2.0] + [9.0] * 9 + [2.0] * 20)[-1] == 1
    assert seen([2.0] + [9.0] * 10 + [2.0] * 20)[-1] == 2


# ---------------------------------------------------------------------- loss gap


def test_loss_gap_keeps_more_the_further_the_training_loss_is_below():
    policy = make("loss-gap")
    for _ in range(50):
        step(policy, 0.75)
    assert ratio(policy, validation_loss=1.0) == pytest.approx(0.2)  # not evaluated yet
    step(policy, 0.75, validation_loss=0.5)
    assert ratio(policy, validation_loss=0.5) == pytest.approx(0.2)
    assert ratio(policy, validation_loss=1.0) == pytest.approx(0.55)
    assert ratio(policy, validation_loss=9.0) == pytest.approx(0.9)


def test_loss_gap_averages_over_an_epoch():
    policy = make_policy("loss-gap")
    policy.reset(0, replace(CONTEXT, steps_per_epoch=5))
    step(policy, 1.0)
    step(policy, 0.5, validation_loss=1.0)
    mean = (0.8 * 0.2 * 1.0 + 0.2 * 0.5) / 0.36
    expected = gap_ratio(mean, 1.0, 0.5, 0.2, 0.9)
    assert ratio(policy, validation_loss=1.0) == pytest.approx(expected, rel=1e-6)


def test_loss_gap_is_held_from_one_evaluation_to_the_next():
    policy = make("loss-gap")
    step(policy, 1.0, validation_loss=1.5)
    before = ratio(policy, validation_loss=1.5)
    for _ in range(20):
        step(policy, 0.5)  # the training loss goes on falling, the other is an old one
    assert ratio(policy, validation_loss=1.5) == before
    step(policy, 0.5, validation_loss=1.4)
    assert ratio(policy, validation_loss=1.4) > before


# ---------------------------------------------------------------------- gradient noise


def test_gradient_noise_keeps_as_many_as_the_scale_says():
    policy = make("gradient-noise")
    for samples in (6, 12, 20):
        assert ratio(policy, gradient_noise=noise_share(samples)) == pytest.approx(
            samples / N, rel=1e-4
        )
    assert ratio(policy, gradient_noise=0.0) == pytest.approx(0.1)
    assert ratio(policy, gradient_noise=1.0) == 1.0


def test_gradient_noise_keeps_as_many_of_all_shards_together():
    one = make("gradient-noise")
    for shards in (2, 4):
        part = make_policy("gradient-noise")
        part.reset(0, replace(CONTEXT, batch_size=N // shards, shards=shards))
        told = noise_share(12)
        assert ratio(part, gradient_noise=told) == ratio(one, gradient_noise=told)


@given(st.floats(0, 1e7))
def test_a_noise_scale_comes_back_from_its_share(samples):
    assert noise_samples(noise_share(samples)) == pytest.approx(samples, rel=1e-9, abs=1e-9)


def test_the_noise_scale_is_found_from_gradients_of_different_sizes():
    rng = np.random.default_rng(0)
    truth, spread, dim = np.full(50, 0.2), 1.5, 50
    scale, average = NoiseScale(0.999), truth + 0.05 * rng.normal(size=dim)
    for t in range(4000):
        size = (4, 16, 64)[t % 3]
        gradient = truth + spread * rng.normal(size=dim) / np.sqrt(size)
        scale.update(size, gradient @ gradient, gradient @ average)
        average = 0.9 * average + 0.1 * gradient
    expected = spread**2 * dim / (truth @ truth)
    assert scale.samples == pytest.approx(expected, rel=0.15)


def test_the_noise_scale_is_endless_without_signal_and_nothing_without_noise():
    still, lost = NoiseScale(), NoiseScale()
    assert still.samples == 0.0
    still.update(8, 1.0, 1.0)
    lost.update(8, 1.0, -0.1)
    assert still.samples == 0.0
    assert lost.samples == np.inf
    assert noise_share(lost.samples) == 1.0


def test_a_gradient_that_is_no_number_is_passed_over():
    scale = NoiseScale()
    scale.update(8, 2.0, 1.0)
    scale.update(8, np.nan, np.nan)
    assert scale.samples == pytest.approx(8.0)


@pytest.mark.told("Loops of your own", "`gradient-noise` without `observe_gradient_noise`")
def test_a_loop_of_ones_own_tells_the_noise_scale_or_is_told_to():
    policy = make_policy("gradient-noise", picker="uniform")
    selector = Selector(policy, None, 10, num_samples=64, num_classes=2)
    with pytest.raises(ValueError, match=r"gradient_noise: .*observe_gradient_noise"):
        selector.select(np.arange(32))
    selector.observe_gradient_noise(8.0)
    assert len(selector.select(np.arange(32))[0]) == 8
    other = Selector(make_policy("gradient-noise", picker="uniform"), None, 10, num_samples=64,
                     num_classes=2)  # fmt: skip
    other.load_state_dict(selector.state_dict())
    assert len(other.select(np.arange(32))[0]) == 8


# ---------------------------------------------------------------------- bounds


@given(
    st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 1), st.floats(0, 1e9),
    st.floats(-1e9, 1e9), st.integers(0, 1000),
)  # fmt: skip
def test_every_rule_stays_within_its_bounds(train, validation, gap, samples, left, count):
    for value in (
        gap_ratio(train, validation, gap, 0.2, 0.9),
        noise_ratio(samples, 128, 1.0, 0.2, 0.9),
        spread_ratio(left, 3.0, count, 10.0, 0.2, 0.9),
    ):
        assert 0.2 <= value <= 0.9


@pytest.mark.parametrize("name", ["plateau", "loss-gap", "gradient-noise", "budget"])
@pytest.mark.told("Policies and plug-ins", "`make_policy('plateau', low=0.9, high=0.2)`")
def test_bounds_the_wrong_way_round_are_refused(name):
    with pytest.raises(ValueError, match=r"low must be at most high, got low=0\.9, high=0\.2"):
        make_policy(name, low=0.9, high=0.2)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_state_goes_through_json_and_another_reset_forgets_it(name):
    policy, other = make(name), make(name)
    start = json.dumps(_plain(policy.state_dict()))
    for t in range(25):
        step(policy, 1.0 + 0.3 * (t % 3), reward=0.1 * (t % 4), validation_loss=1.5)
    other.load_state_dict(copy.deepcopy(policy.state_dict()))
    for t in range(25):
        for one in (policy, other):
            step(one, 1.0, reward=0.1 * (t % 5))
        assert ratio(policy) == ratio(other)
    assert _plain(policy.state_dict()) == _plain(other.state_dict())
    policy.reset(0, CONTEXT)
    assert json.dumps(_plain(policy.state_dict())) == start


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


# ---------------------------------------------------------------------- whole runs


def small(tiny_npz, policy, **options):
    given = {
        "dataset": tiny_npz,
        "policy": policy,
        "picker": "uniform",
        "epochs": 3,
        "batch_size": 32,
        "learner": "mlp",
    }
    return config_from(given | options)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_resumed_run_is_the_run_that_was_not_stopped(tiny_npz, tmp_path, name):
    options = small(tiny_npz, name)
    whole = execute(options, tmp_path / "whole", checkpoint_every=3)
    part = execute(options, tmp_path / "part", stop=StopAfter(7), checkpoint_every=3)
    assert part["status"] == "interrupted"
    resumed = execute(options, tmp_path / "part", resume=True, checkpoint_every=3)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    kept = [np.load(tmp_path / folder / "kept.npz")["kept"] for folder in ("whole", "part")]
    np.testing.assert_array_equal(*kept)


CHOICES = [
    {"picker": "uniform"},
    {"picker": "top-score", "score": "loss"},
    {"picker": "softmax", "score": "stale-loss"},
    {"picker": "k-center"},
    {"picker": "k-center", "learner": "small-cnn", "batch_size": 128},
    {"picker": "divbs", "shards": 3, "batch_size": 128},
    {"picker": "uniform", "pack": True, "batch_size": 128, "epochs": 3},
    {"picker": "uniform", "pack": True, "shards": 4, "batch_size": 64},
    {"picker": "top-score", "score": "loss", "shards": 4, "batch_size": 128},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("share", [0.5, pytest.param(0.8, marks=pytest.mark.slow)])
def test_the_budget_is_hit_within_a_percent(tmp_path, choice, share):
    options = small("digits", "budget", policy_params={"share": share}, **{"epochs": 2} | choice)
    result = execute(options, tmp_path)
    assert result["charged_flops"] / result["full_flops"] == pytest.approx(share, rel=0.01)


def test_the_budget_is_hit_with_a_spectral_solve(tiny_npz, tmp_path):
    result = execute(small(tiny_npz, "budget", picker="hybrid", learner="small-cnn"), tmp_path)
    assert result["flops_by_phase"]["spectral"] > 0
    assert result["charged_flops"] / result["full_flops"] == pytest.approx(0.5, rel=0.01)


def test_under_an_equal_budget_it_lasts_for_all_epochs(tmp_path):
    options = small("digits", "budget", epochs=4, setting="equal-budget", budget=0.5)
    result = execute(options, tmp_path)
    assert result["charged_flops"] <= result["budget_flops"]
    assert result["mean_keep"] == pytest.approx(0.5, abs=0.03)


def test_an_equal_budget_is_spread_over_the_draws_that_are_allowed(tmp_path):
    options = small("digits", "budget", setting="equal-budget", budget=0.25, max_draws=40)
    result = execute(options, tmp_path)
    assert result["charged_flops"] / result["budget_flops"] == pytest.approx(1, abs=0.02)


def test_a_share_below_the_lowest_ratio_is_refused_before_the_run(tmp_path):
    for share, low in ((0.02, 0.01), (0.1, 0.2)):
        options = small("digits", "budget", policy_params={"share": share, "low": low})
        with pytest.raises(RuntimeError, match=rf"step 0.*share={share:g} is below .* low={low:g}"):
            execute(options, tmp_path / str(share))


def test_a_share_that_scoring_and_the_lowest_ratio_exceed_is_refused(tmp_path):
    options = small("digits", "budget", picker="top-score", score="loss",
                    policy_params={"share": 0.4, "low": 0.2})  # fmt: skip
    with pytest.raises(RuntimeError, match=r"the lowest keep ratio, 0\.200"):
        execute(options, tmp_path)


@pytest.mark.told("Policies and plug-ins", "`budget` with a share that scoring exceeds")
def test_a_budget_that_scoring_alone_exceeds_is_refused_at_the_first_step(tmp_path):
    options = small("digits", "budget", picker="top-score", score="loss",
                    policy_params={"share": 0.2})  # fmt: skip
    with pytest.raises(RuntimeError, match=r"step 1.*share=0\.2 .* does not pay for scoring"):
        execute(options, tmp_path)


def test_the_noise_scale_changes_no_update_and_is_measured_only_if_observed(tiny_npz):
    from gstds.envs import DataSelectionEnv

    digests = []
    for observe in ({}, {"gradient_noise": {}}):
        env = DataSelectionEnv(
            dataset=tiny_npz, epochs=2, batch_size=32, learner="mlp", observe=observe, reward="none"
        )
        view, _ = env.reset(seed=0)
        assert ("gradient_noise" in view) == bool(observe)
        done, seen = False, []
        while not done:
            if observe:
                seen.append(float(view["gradient_noise"][0]))
            view, _, done, _, _ = env.step(np.ones(32, np.float32))
        state = env.learner.state_dict()
        assert bool(state["meter"]) == bool(observe)
        digests.append([v.cpu().numpy().tobytes() for v in state["model"].values()])
    assert digests[0] == digests[1]
    assert seen[0] == 0.0
    assert len(set(seen[2:])) > 2
