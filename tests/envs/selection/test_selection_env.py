from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds import policies
from gstds.common.state import latest_state, save_state, state_digest
from gstds.envs import DataSelectionEnv
from gstds.envs.batches.order import Draws
from gstds.selection.schedules import SCHEDULES, make_schedule
from gstds.selection.weights import kept_count

BARE = {"observe": (), "reward": "none"}
DIGITS = {"dataset": "digits", "limit": 300, "epochs": 2, "reference": "untrained"}


def run(env, policy, seed=0, steps=None):
    observation, info = env.reset(seed=seed)
    policy.reset(seed, policies.RunContext(**env.context()))
    infos = [info]
    done = False
    while not done and (steps is None or len(infos) <= steps):
        observation, reward, terminated, truncated, info = env.step(policy.act(observation))
        infos.append(info | {"reward": reward})
        done = terminated or truncated
    return infos


def digest(env):
    return state_digest(env.learner.model.state_dict())


def test_gymnasiums_checker_passes_without_a_warning_on_a_short_last_batch():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("gstds.envs:gstds/DataSelection-v0", **DIGITS)
        check_env(env.unwrapped, skip_render_check=True)
        assert len(env.unwrapped.data.train) % 128 != 0


def test_stable_baselines3s_checker_passes_but_for_its_advice_on_symmetric_actions():
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    env = gymnasium.make("gstds.envs:gstds/DataSelection-v0", **DIGITS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb3.check_env(env.unwrapped)
    told = [str(w.message) for w in caught if "gymnasium" not in str(w.category).lower()]
    assert [t for t in told if "symmetric" not in t] == []


def test_vector_environments_step(tiny_npz):
    vector = gymnasium.make_vec(
        "gstds.envs:gstds/DataSelection-v0",
        num_envs=2,
        vectorization_mode="sync",
        dataset=tiny_npz,
        batch_size=32,
        **BARE,
    )
    observation, _ = vector.reset(seed=1)
    observation, *_ = vector.step(np.ones((2, 32), np.float32))
    assert observation["last_losses"].shape == (2, 32)
    vector.close()


def test_import_make_reset_and_step_emit_no_warning(tiny_npz):
    script = f"""
    import gymnasium, numpy as np
    env = gymnasium.make("gstds.envs:gstds/DataSelection-v0", dataset={tiny_npz!r}, observe=[],
                         batch_size=32)
    from gstds import policies, train
    env.reset(seed=0)
    env.step(np.ones(32, np.float32))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_same_seed_is_the_same_run_and_another_is_not(tiny_npz):
    def weights(seed):
        env = DataSelectionEnv(dataset=tiny_npz, epochs=2, batch_size=32, **BARE)
        infos = run(env, policies.make_policy("random"), seed)
        return digest(env), [i["train_loss"] for i in infos]

    assert weights(3) == weights(3)
    assert weights(3) != weights(4)


def test_global_generators_are_neither_read_nor_seeded(tiny_npz):
    before = (torch.get_rng_state().clone(), np.random.get_state()[1].copy())  # noqa: NPY002
    env = DataSelectionEnv(dataset=tiny_npz, epochs=1, batch_size=32, **BARE)
    run(env, policies.make_policy("random"))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_every_policy_meets_the_same_order_weights_and_pixels(tiny_npz):
    seen = []
    for name in ("random", "full"):
        env = DataSelectionEnv(dataset=tiny_npz, epochs=2, batch_size=32, **BARE)
        env.reset(seed=5)
        start = digest(env)
        pixels = env.loader.images(np.array([3, 1]), 1)
        order = [i["next_indices"].tolist() for i in run(env, policies.make_policy(name), 5)]
        seen.append((start, pixels.cpu().numpy().tobytes(), order))
    assert seen[0] == seen[1]


def test_a_samples_pixels_do_not_depend_on_its_neighbors(tiny_npz):
    env = DataSelectionEnv(dataset=tiny_npz, epochs=1, batch_size=32, **BARE)
    env.reset(seed=0)
    together, alone = (
        env.loader.images(np.array([7, 9, 2]), 0),
        env.loader.images(np.array([9]), 0),
    )
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(env.loader.images(np.array([9]), 1)[0], alone[0])


@pytest.mark.parametrize("name", ["gstds", "random"])
@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_the_kept_share_equals_the_schedules_at_every_step(name, schedule):
    policy = policies.make_policy(name, schedule=make_schedule(schedule))
    options = DIGITS | {"learner": "mlp", "reward": "none", "batch_size": 64}
    env = DataSelectionEnv(**options, observe=policy.needs)
    infos = run(env, policy)
    assert len(infos) == env.total_steps + 1
    for step, info in enumerate(infos[1:]):
        ratio = make_schedule(schedule)(step / env.total_steps)
        assert info["kept"] == kept_count(ratio, info["drawn"])
        assert info["trained"].sum() == info["kept"]


def test_dropped_images_are_never_loaded(tmp_path, monkeypatch):
    (tmp_path / "counted.py").write_text(
        textwrap.dedent("""
        import numpy as np
        LOADED = []
        class Images:
            def __len__(self): return 200
            def __getitem__(self, i):
                LOADED.append(int(i))
                return np.full((8, 8), int(i) % 251, np.uint8)
        def data():
            return {"X": Images(), "y": np.arange(200) % 4}
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    import counted

    env = DataSelectionEnv(dataset="counted:data", epochs=1, batch_size=32, **BARE)
    env.reset(seed=0)
    counted.LOADED.clear()
    weights = np.zeros(32, np.float32)
    weights[[4, 9, 20]] = 1
    expected = env.data.train.rows[env.batch[[4, 9, 20]]]
    env.step(weights)
    assert sorted(counted.LOADED) == sorted(expected.tolist())
    counted.LOADED.clear()
    env.step(np.zeros(32, np.float32))
    assert counted.LOADED == []


def test_what_is_used_is_charged_and_nothing_else(tiny_npz):
    env = DataSelectionEnv(dataset=tiny_npz, epochs=1, batch_size=32, **BARE)
    run(env, policies.make_policy("full"))
    flops = env.ledger.flops
    assert flops["train"] == pytest.approx(env.full_flops)
    assert flops["spectral"] == flops["score"] == flops["evaluate"] == 0
    env = DataSelectionEnv(
        dataset=tiny_npz, epochs=1, batch_size=32, observe=["learner_losses"], reward="none"
    )
    run(env, policies.make_policy("full"))
    assert env.ledger.flops["score"] == pytest.approx(140 * env.learner.forward_flops)
    before = env.ledger.charged_flops
    env.monitor("test")
    assert env.ledger.charged_flops == before


def test_skipping_everything_trains_nothing_and_charges_nothing(tiny_npz):
    env = DataSelectionEnv(dataset=tiny_npz, epochs=1, batch_size=32, **BARE)
    env.reset(seed=0)
    start = digest(env)
    for _ in range(env.total_steps):
        _, _, terminated, _, info = env.step(np.zeros(32, np.float32))
    assert terminated
    assert info["charged_flops"] == 0
    assert digest(env) == start


class Skipper(policies.Policy):
    def act(self, observation):
        return np.zeros_like(observation["valid"])


def test_a_policy_that_skips_for_ever_is_cut_off(tiny_npz):
    env = DataSelectionEnv(
        dataset=tiny_npz, epochs=2, batch_size=32, setting="equal-budget", max_draws=9, **BARE
    )
    infos = run(env, Skipper())
    assert len(infos) == 10
    assert infos[-1]["under_budget"]


@settings(max_examples=12)
@given(
    budget=st.floats(0.3, 1),
    epochs=st.integers(1, 3),
    batch_size=st.sampled_from([16, 32, 33]),
    keep=st.floats(0.2, 0.9),
)
def test_an_equal_budget_is_never_exceeded_and_missed_by_less_than_two_samples(
    tmp_path_factory, budget, epochs, batch_size, keep
):
    path = tmp_path_factory.getbasetemp() / "budget.npz"
    if not path.exists():
        images = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8)
        np.savez(path, X=images, y=np.arange(200) % 4)
    env = DataSelectionEnv(
        dataset=f"npz:{path}",
        learner="mlp",
        epochs=epochs,
        batch_size=batch_size,
        setting="equal-budget",
        budget=budget,
        **BARE,
    )
    schedule = make_schedule("constant", keep=keep)
    infos = run(env, policies.make_policy("random", schedule=schedule))
    left = env.budget_flops - env.ledger.charged_flops
    assert -1e-6 * env.budget_flops <= left < 2 * env.sample_flops
    assert not infos[-1]["under_budget"]
    for info in infos[1:]:
        assert info["kept"] == kept_count(keep, info["drawn"])


@pytest.mark.told("Environments", "a budget that pays no batch")
def test_a_budget_that_pays_no_batch_is_refused(tiny_npz):
    with pytest.raises(ValueError, match=r"budget=0\.1 .*raise --budget"):
        DataSelectionEnv(
            dataset=tiny_npz, epochs=1, batch_size=64, setting="equal-budget", budget=0.1, **BARE
        )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones(31, np.float32), r"shape \(32,\), got \(31,\) \(step 1\)"),
        (np.full(32, np.nan), "got nan at position 0"),
        (np.full(32, -0.1), r"\[0, 1\]"),
        (np.full(32, 1.5), "raise w_max"),
        (np.array(["a"] * 32), "numbers"),
    ],
)
def test_an_illegal_action_is_refused_and_changes_nothing(tiny_npz, bad, message):
    env = DataSelectionEnv(dataset=tiny_npz, epochs=1, batch_size=32, **BARE)
    env.reset(seed=0)
    env.step(np.ones(32, np.float32))
    before = digest(env), env.ledger.charged_flops, env.step_count
    with pytest.raises(ValueError, match=message):
        env.step(bad)
    assert (digest(env), env.ledger.charged_flops, env.step_count) == before


def test_steps_out_of_order_are_refused(tiny_npz):
    env = DataSelectionEnv(dataset=tiny_npz, epochs=1, batch_size=32, **BARE)
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(np.ones(32, np.float32))


@pytest.mark.parametrize("setting", ["equal-epochs", "equal-budget"])
def test_a_restored_run_is_the_run_that_was_never_stopped(tiny_npz, tmp_path, setting):
    policy = policies.make_policy("random")
    options = {
        "dataset": tiny_npz,
        "epochs": 3,
        "batch_size": 32,
        "setting": setting,
        "budget": 0.6,
        "observe": ["learner_losses"],
    }
    whole = DataSelectionEnv(**options)
    infos = run(whole, policy)
    first = DataSelectionEnv(**options)
    run(first, policy, steps=4)
    save_state(tmp_path, 4, first.state_dict())
    second = DataSelectionEnv(**options)
    observation = second.load_state_dict(latest_state(tmp_path))
    rewards, done = [], False
    while not done:
        observation, reward, terminated, truncated, _ = second.step(policy.act(observation))
        rewards.append(reward)
        done = terminated or truncated
    assert digest(second) == digest(whole)
    assert rewards == [i["reward"] for i in infos[5:]]
    assert second.ledger.flops == whole.ledger.flops


def test_rewards_telescope_and_fall_with_the_price(tiny_npz):
    def total(price):
        env = DataSelectionEnv(dataset=tiny_npz, epochs=3, batch_size=32, observe=(), price=price)
        env.reset(seed=0)
        first = env.state_dict()["evaluator"]["last"][0]
        infos = run(env, policies.make_policy("full"))
        last = env.state_dict()["evaluator"]["last"][0]
        return sum(i["reward"] for i in infos[1:]), first, last

    free, first, last = total(0.0)
    assert free == pytest.approx(first - last)
    assert free > 0
    assert total(0.5)[0] < free - 0.4


def test_the_loss_is_divided_by_what_the_normalizer_says(tiny_npz):
    moves = []
    for normalizer in ("kept", "drawn"):
        env = DataSelectionEnv(
            dataset=tiny_npz,
            learner="mlp",
            epochs=1,
            batch_size=32,
            momentum=0.0,
            weight_decay=0.0,
            precision="float32",
            normalizer=normalizer,
            augment=False,
            **BARE,
        )
        env.reset(seed=0)
        before = [p.detach().clone() for p in env.learner.model.parameters()]
        weights = np.zeros(32, np.float32)
        weights[:8] = 1
        env.step(weights)
        moves.append(
            [(p - q).detach() for p, q in zip(env.learner.model.parameters(), before, strict=True)]
        )
    for kept, drawn in zip(*moves, strict=True):
        torch.testing.assert_close(kept, 4 * drawn, rtol=1e-3, atol=1e-7)


def test_a_lone_sample_that_batchnorm_cannot_take_is_carried_into_the_next_update():
    env = DataSelectionEnv(dataset="digits", limit=200, learner="resnet18", epochs=1, **BARE)
    env.reset(seed=0)
    assert env.learner.min_batch == 2
    weights = np.zeros(128, np.float32)
    weights[5] = 1
    sample = int(env.batch[5])
    _, _, _, _, info = env.step(weights)
    assert (info["carried"], info["charged_flops"], env.visits[sample]) == (1, 0, 0)
    _, _, _, _, info = env.step(weights)
    assert (info["carried"], env.visits.sum(), env.visits[sample]) == (0, 2, 1)
    assert info["charged_flops"] == pytest.approx(2 * env.sample_flops)


@pytest.mark.told("Environments", "`batch_size=64` for 50 samples")
def test_draws_cover_every_sample_once_an_epoch_and_depend_on_the_epoch():
    draws = Draws(50, 16, seed=1)
    first = np.concatenate([draws.batch(s) for s in range(4)])
    second = np.concatenate([draws.batch(s) for s in range(4, 8)])
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(draws.batch(1), first[16:32])
    with pytest.raises(ValueError, match="at most the 50 training samples, got 64"):
        Draws(50, 64, 0)


def test_an_unknown_option_is_a_type_error_with_the_near_names():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'learnr'; .* 'learner'"):
        DataSelectionEnv(learnr="mlp")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learner": "resnet81"}, "did you mean 'resnet18'"),
        ({"label_noise": 1.2}, r"label_noise must be in \[0, 1\), got 1.2"),
        ({"observe": ["spectral"]}, "did you mean 'spectral_scores'"),
        ({"observe": {"spectral_scores": {"sgn": "abs"}}}, "did you mean 'sign'"),
        ({"batch_size": 10_000}, "at most the"),
        ({"reward": "validation"}, "did you mean 'validation-loss'"),
        ({"device": "tpu"}, "device"),
        ({"setting": "equal-epoch"}, "did you mean 'equal-epochs'"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
    ],
)
@pytest.mark.told("Environments", "`gymnasium.make(…, {options})`")
def test_bad_options_fail_at_make(options, message):
    with pytest.raises(ValueError, match=message):
        DataSelectionEnv(**({"observe": ()} | options))


def double():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 100, "batch_size": 128}, "batch_size must be at most the 100"),
        ({"learner": f"{__name__}:double"}, r"float64 \(images are float32"),
        ({"setting": "equal-budget", "budget": 0.001, "epochs": 1}, "less than one batch"),
        ({"learner": f"{__name__}:no_head", "observe": ["learner_embeddings"]}, "Linear"),
    ],
)
@pytest.mark.told("Environments", "`gymnasium.make(…, {options})`")
def test_what_is_cheap_to_find_out_is_found_out_before_the_reference(monkeypatch, options, message):
    def dear(*_):
        raise AssertionError("features of all images would be computed first")

    monkeypatch.setattr("gstds.envs.selection.env.load_task", dear)
    with pytest.raises(ValueError, match=message):
        DataSelectionEnv(dataset="digits", **options)


def no_head():
    convolution = torch.nn.Conv2d(1, 10, 8)
    return torch.nn.Sequential(convolution, torch.nn.Flatten())


def test_whoever_makes_it_is_asked_before_the_reference(monkeypatch):
    def dear(*_):
        raise AssertionError("features of all images would be computed first")

    def look(env):
        raise OSError(f"no room for {len(env.data.train)}, {env.total_steps} steps")

    monkeypatch.setattr("gstds.envs.selection.env.load_task", dear)
    with pytest.raises(OSError, match="no room for 1258, 100 steps"):
        DataSelectionEnv(dataset="digits", before_reference=look)
