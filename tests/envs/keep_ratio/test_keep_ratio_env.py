from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from gstds.common.state import latest_state, save_state, state_digest
from gstds.envs import DataSelectionEnv, KeepRatioEnv
from gstds.envs.keep_ratio.env import RatioActions
from gstds.observation.summary import SUMMARY_NAMES
from gstds.policies import KeepRatioPolicy, RunContext
from gstds.selection.pickers import RATIO_PICKERS

ID = "gstds.envs:gstds/KeepRatio-v0"
SMALL = {"batch_size": 16, "epochs": 6, "picker": "uniform", "interval": 2, "learner": "mlp"}


def episode(env, actions, seed=0, **options):
    env.reset(seed=seed, options=options or None)
    rewards, info, done = [], {}, False
    while not done:
        _, reward, terminated, truncated, info = env.step(actions(len(rewards)))
        rewards.append(reward)
        done = terminated or truncated
    return rewards, info


def digest(env):
    return state_digest(env.world.learner.model.state_dict())


@pytest.mark.parametrize("action", ["discrete", "box"])
def test_both_checkers_pass_without_a_warning(tiny_npz, action):
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(ID, dataset=tiny_npz, action=action, **SMALL)
        check_env(env.unwrapped, skip_render_check=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb3.check_env(env.unwrapped)
    own = [str(w.message) for w in caught if "gymnasium" not in str(w.category).lower()]
    assert own == []


class Sequence(KeepRatioPolicy):
    """A fixed sequence of ratios, each for two drawn batches."""

    def __init__(self, ratios):
        super().__init__()
        self.ratios, self.drawn = ratios, 0

    def keep_ratio(self, observation):
        self.drawn += 1
        return self.ratios[(self.drawn - 1) // 2 % len(self.ratios)]


def test_one_ratio_sequence_gives_the_same_weights_through_both_environments():
    ratios = [0.5, 0.1, 0.0, 0.25, 1.0]
    options = {"dataset": "digits", "limit": 300, "reference": "untrained", "batch_size": 32}
    options |= {"setting": "equal-budget", "budget": 0.5, "epochs": 3, "learner": "mlp"}
    env = KeepRatioEnv(**options, interval=2, reward="none")
    _, info = episode(env, lambda i: env.actions.action(ratios[i % 5]), seed=4)

    policy = Sequence(ratios)
    other = DataSelectionEnv(**options, reward="none", observe=policy.needs)
    observation, _ = other.reset(seed=4)
    policy.reset(4, RunContext(**other.context()))
    done = False
    while not done:
        observation, _, terminated, truncated, last = other.step(policy.act(observation))
        done = terminated or truncated
    assert policy.drawn > 10
    assert info["charged_flops"] == last["charged_flops"]
    assert digest(env) == state_digest(other.learner.model.state_dict())


@pytest.mark.parametrize("picker", sorted(RATIO_PICKERS))
def test_a_step_keeps_the_ratio_of_every_drawn_batch(picker):
    env = KeepRatioEnv(
        dataset="digits", limit=200, reference="untrained", batch_size=20, epochs=2,
        setting="equal-epochs", learner="mlp", picker=picker, interval=3,
    )  # fmt: skip
    env.reset(seed=0)
    _, _, _, _, info = env.step(env.actions.action(0.35))
    assert (info["drawn"], info["kept"], info["step"]) == (60, 21, 3)
    assert info["ratio"] == 0.35


def test_the_summary_and_the_reward_are_those_of_the_world_within(tiny_npz):
    env = KeepRatioEnv(dataset=tiny_npz, **SMALL)
    observation, _ = env.reset(seed=1)
    named = dict(zip(SUMMARY_NAMES, observation.tolist(), strict=True))
    assert (named["visited"], named["mean_age"], named["validation_loss"]) == (0, 1, 0)
    rewards, info = episode(env, lambda i: 4, seed=1)
    world = DataSelectionEnv(dataset=tiny_npz, observe=(), setting="equal-budget", batch_size=16,
                             epochs=6, learner="mlp")  # fmt: skip
    assert 0 < sum(rewards) < 2
    assert info["charged_flops"] <= world.budget_flops
    start = env.world.ledger.charged_flops
    assert info["charged_flops"] == start
    assert info["selection_accuracy"] > 0.3


def test_the_validation_loss_is_seen_only_where_it_is_asked_for(tiny_npz):
    asked = KeepRatioEnv(dataset=tiny_npz, observe=["validation_loss"], **SMALL)
    observation, _ = asked.reset(seed=1)
    assert observation[SUMMARY_NAMES.index("validation_loss")] > 0


def test_the_same_seed_is_the_same_run_and_another_is_not(tiny_npz):
    env = KeepRatioEnv(dataset=tiny_npz, **SMALL)

    def run(seed):
        rewards, _ = episode(env, lambda i: i % 9, seed=seed)
        return rewards, digest(env)

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_a_restored_episode_is_the_one_that_was_never_stopped(tiny_npz, tmp_path):
    options = {"dataset": tiny_npz, "centered": True, **SMALL}
    instances = [{"name": "a"}, {"name": "b", "split_seed": 1}]
    env = KeepRatioEnv(instances=instances, **options)
    env.reset(seed=5, options={"instance": "b"})
    for action in (3, 5):
        env.step(action)
    save_state(tmp_path, 2, env.state_dict())
    wanted = [env.step(4)[:4] for _ in range(3)]
    other = KeepRatioEnv(instances=instances, **options)
    state = latest_state(tmp_path)
    assert state is not None
    other.load_state_dict(state)
    for a, b in zip([other.step(4)[:4] for _ in range(3)], wanted, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]
    assert digest(env) == digest(other)
    assert env.reset()[1] == other.reset()[1]


def test_instances_are_drawn_by_seed_and_named_at_reset(tiny_npz):
    instances = [{"name": n, "split_seed": i} for i, n in enumerate("abc")]
    env = KeepRatioEnv(dataset=tiny_npz, instances=instances, **SMALL)
    drawn = [env.reset(seed=s)[1]["instance"] for s in range(12)]
    assert set(drawn) == {"a", "b", "c"}
    assert drawn == [env.reset(seed=s)[1]["instance"] for s in range(12)]
    assert env.reset(seed=0, options={"instance": "c"})[1]["instance"] == "c"
    assert env.reset(seed=0, options={"instance": 1})[1]["instance"] == "b"
    for wrong in ("d", 3):
        with pytest.raises(ValueError, match="instance"):
            env.reset(options={"instance": wrong})


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"instances": [{"dataset": "digit"}]}, "digit"),
        ({"instances": [{"limit": 10**6}]}, "limit"),
        ({"instances": [{"learner": "nothing"}]}, "learner"),
        ({"instances": [{"epochs": 1, "budget": 0.001}]}, "budget"),
        ({"instances": "smal-train"}, "small-train"),
        ({"instances": []}, "at least one"),
        ({"instances": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({"ratios": [0.5]}, "ratios"),
        ({"ratios": [0.5, 1.5]}, "ratios"),
        ({"action": "cube"}, "action"),
        ({"picker": "hybird"}, "hybrid"),
        ({"interval": 0}, "interval"),
        ({"reward": "gold"}, "reward"),
        ({"target_accuracy": 2.0}, "target_accuracy"),
    ],
)
@pytest.mark.told("Environments", "`KeepRatioEnv({options})`")
def test_an_impossible_environment_fails_when_it_is_made(options, word):
    with pytest.raises(ValueError, match=word):
        gymnasium.make(ID, **({"dataset": "digits", "picker": "uniform"} | options))


def test_an_unknown_keyword_is_refused_in_pythons_words():
    words = "got an unexpected keyword argument 'batchsize'; did you mean 'batch_size'"
    for name in (ID, ID.replace("KeepRatio", "DataSelection")):
        with pytest.raises(TypeError, match=words):
            gymnasium.make(name, dataset="digits", batchsize=3)


@pytest.mark.parametrize("wrong", [9, -1, 0.5, np.nan, [1, 2]])
@pytest.mark.told("Environments", "`step({wrong})` of a KeepRatioEnv")
def test_an_action_outside_the_space_is_refused(tiny_npz, wrong):
    with pytest.raises(ValueError, match="action"):
        RatioActions("discrete").ratio(wrong)


def test_a_box_action_maps_linearly_and_back():
    actions = RatioActions("box")
    for number, ratio in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)):
        assert actions.ratio(np.array([number], np.float32)) == ratio
        assert actions.action(ratio) == [number]
    with pytest.raises(ValueError, match="action"):
        actions.ratio([1.1])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_step(tiny_npz, mode):
    kwargs = {"vectorization_mode": mode}
    if mode == "async" and torch.cuda.is_available():
        kwargs["vector_kwargs"] = {"context": "spawn"}
    vector = gymnasium.make_vec(ID, num_envs=2, dataset=tiny_npz, **kwargs, **SMALL)
    try:
        observation, _ = vector.reset(seed=1)
        assert observation.shape == (2, len(SUMMARY_NAMES))
        observation, rewards, *_ = vector.step(np.array([2, 7]))
        assert rewards.shape == (2,)
        kept = observation[:, SUMMARY_NAMES.index("keep_ratio")]
        assert kept[0] < kept[1]
    finally:
        vector.close()


# What an agent might try instead of learning: each must earn less than random keep of a quarter.
HACKS = {
    "keep nothing": lambda env: 0.0,
    "keep everything": lambda env: 1.0,
    "skip until the last step": lambda env: (
        1.0 if env.world.step_count >= env.world.max_draws - 2 * env.interval else 0.0
    ),
    "train just before an evaluation": lambda env: 1.0 if env.world.progress * 6 % 1 > 0.8 else 0.0,
}


@pytest.fixture(scope="module")
def hacking_ground(tmp_path_factory):
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = rng.integers(0, 200, size=(400, 8, 8))
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2] += 40
    path = tmp_path_factory.mktemp("data") / "hard.npz"
    np.savez(path, X=x.astype(np.uint8), y=y)
    return f"npz:{path}"


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("reward", ["validation-loss", "time-to-accuracy", "final-accuracy"])
def test_every_hack_earns_less_than_random_keep(hacking_ground, reward, centered):
    env = KeepRatioEnv(
        dataset=hacking_ground,
        batch_size=64,
        epochs=8,
        budget=0.25,
        picker="uniform",
        interval=1,
        evaluations=6,
        reward=reward,
        centered=centered,
        target_accuracy=0.5,
        max_draws=50,
        control_keep=0.25,
        action="box",
    )

    def earned(ratio):
        rewards, _ = episode(env, lambda i: env.actions.action(ratio(env)), seed=1)
        return sum(rewards)

    honest = earned(lambda env: 0.25)
    for name, hack in HACKS.items():
        assert earned(hack) < honest - 0.01, name
