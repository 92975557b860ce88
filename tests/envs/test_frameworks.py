"""The environments as gymnasium's wrappers, copies, pictures and TorchRL take them."""

from __future__ import annotations

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import wrappers

from gstds.envs import DataSelectionEnv, KeepRatioEnv
from gstds.envs.selection.standing import picture

IDS = ["gstds/DataSelection-v0", "gstds/KeepRatio-v0"]
SMALL = {"batch_size": 16, "epochs": 3, "learner": "mlp", "reference": "untrained"}


ENVS = dict(zip(IDS, (DataSelectionEnv, KeepRatioEnv), strict=True))
LONG = {"interval": 1, "budget": 1.0}


def made(name, data, **options):
    options |= LONG if name == "gstds/KeepRatio-v0" else {}
    return gymnasium.make(f"gstds.envs:{name}", dataset=data, **SMALL, **options)


def actions(env, count, seed=0):
    random = np.random.default_rng(seed)
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return list(random.integers(env.action_space.n, size=count))
    return list((random.random((count, *env.action_space.shape)) > 0.5).astype(np.float32))


def through_pickle(env):
    return pickle.loads(pickle.dumps(env))  # noqa: S301


# ---------------------------------------------------------------------------- copies


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
@pytest.mark.parametrize("name", IDS)
@pytest.mark.told(
    "Environments",
    "`copy.deepcopy` or pickle of an environment in mid-episode",
    works="the copy goes on bit for bit",
)
def test_a_copy_in_mid_episode_goes_on_bit_for_bit(tiny_npz, name, copied):
    env = made(name, tiny_npz)
    env.reset(seed=3)
    taken = actions(env, 6)
    for action in taken[:3]:
        env.step(action)
    twin = copied(env)
    assert twin.spec == env.spec
    after = [[one.step(action) for action in taken[3:]] for one in (twin, env)]
    np.testing.assert_equal(*after)
    np.testing.assert_equal(twin.reset(), env.reset())  # the generator of later runs too
    third = copied(env)  # and one does not move the other
    third.step(taken[0])
    assert env.unwrapped.state_dict()["running"]


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
@pytest.mark.parametrize("name", IDS)
def test_a_copy_of_what_was_not_begun_begins_alike(tiny_npz, name, copied):
    env = made(name, tiny_npz, seed=5)
    twin = copied(env)
    np.testing.assert_equal(twin.reset(), env.reset())


@pytest.mark.parametrize("name", IDS)
@pytest.mark.told("Environments", "`env.step` after `env.close`")
def test_a_step_after_close_is_refused_and_a_reset_begins_anew(tiny_npz, name):
    env = made(name, tiny_npz).unwrapped
    first, _ = env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="the run has ended, was closed or was not begun"):
        env.step(actions(env, 1)[0])
    np.testing.assert_equal(env.reset(seed=0)[0], first)
    env.step(actions(env, 1)[0])


# ---------------------------------------------------------------------------- gymnasium's wrappers

ON_ALL = {
    "FlattenObservation": wrappers.FlattenObservation,
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 3),
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "NormalizeReward": wrappers.NormalizeReward,
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda reward: 2 * reward),
    "ClipReward": lambda env: wrappers.ClipReward(env, -1, 1),
    "OrderEnforcing": wrappers.OrderEnforcing,
    "PassiveEnvChecker": wrappers.PassiveEnvChecker,
    "Autoreset": wrappers.Autoreset,
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 3),
    "DelayObservation": lambda env: wrappers.DelayObservation(env, 1),
    "TimeAwareObservation": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 9)),
    "RepeatAction": lambda env: wrappers.RepeatAction(env, 2),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.5),
    "NumpyToTorch": lambda env: wrappers.NumpyToTorch(env),  # needs gymnasium[torch]
    "TransformObservation": lambda env: wrappers.TransformObservation(
        env, lambda seen: seen, env.observation_space
    ),
    "RenderCollection": wrappers.RenderCollection,
    "AddRenderObservation": wrappers.AddRenderObservation,
    "AddWhiteNoise": lambda env: wrappers.AddWhiteNoise(env, 0.5),
    "ObstructView": lambda env: wrappers.ObstructView(env, 0.5, 4),
}
ON_WEIGHTS = {
    "ClipAction": wrappers.ClipAction,
    "RescaleAction": lambda env: wrappers.RescaleAction(env, np.float32(-1), np.float32(1)),
    "TransformAction": lambda env: wrappers.TransformAction(
        env, lambda action: action, env.action_space
    ),
    "FilterObservation": lambda env: wrappers.FilterObservation(env, ["progress", "noise"]),
}
ON_SUMMARY = {
    "NormalizeObservation": wrappers.NormalizeObservation,
    "DtypeObservation": lambda env: wrappers.DtypeObservation(env, np.float32),
    "RescaleObservation": lambda env: wrappers.RescaleObservation(
        env, np.float32(-1), np.float32(1)
    ),
    "ReshapeObservation": lambda env: wrappers.ReshapeObservation(env, (17, 1)),
    "MaxAndSkipObservation": wrappers.MaxAndSkipObservation,
}
CASES = [(IDS[0], each) for each in (*ON_ALL, *ON_WEIGHTS)]
CASES += [(IDS[1], each) for each in (*ON_ALL, *ON_SUMMARY)]
# The slow tests have what NumpyToTorch needs, the extra gymnasium[torch].
CASES = [pytest.param(*one, marks=[pytest.mark.slow] * ("NumpyToTorch" in one)) for one in CASES]


@pytest.mark.parametrize(("name", "wrapper"), CASES)
def test_gymnasiums_wrappers_take_the_environments(tiny_npz, name, wrapper):
    torch_too = wrapper == "NumpyToTorch"
    if torch_too:
        pytest.importorskip("array_api_compat")
    wrap = (ON_ALL | ON_WEIGHTS | ON_SUMMARY)[wrapper]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = wrap(made(name, tiny_npz, render_mode="rgb_array"))
        seen, _ = env.reset(seed=0)
        assert torch_too or seen in env.observation_space
        env.action_space.seed(0)
        for _ in range(2):
            action = env.action_space.sample()
            if torch_too:
                action = torch.as_tensor(action)
            seen, reward, *_ = env.step(action)
            assert torch_too or seen in env.observation_space
            assert np.isfinite(float(reward))
    env.close()


# ---------------------------------------------------------------------------- pictures


def test_a_picture_shows_the_drawn_batch_and_frames_what_is_kept(tiny_npz):
    env = made(IDS[0], tiny_npz, render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    waiting, batch = env.render(), env.batch
    side = waiting.shape[0] // 4
    assert waiting.shape == (4 * side, 4 * side, 3)
    images = env.data.train.gather(batch).numpy()
    weights = np.zeros(16, np.float32)
    weights[[0, 6]] = 1
    env.step(weights)
    shown = env.render()
    for place in range(16):
        row, column = (side * one for one in divmod(place, 4))
        tile = shown[row : row + side, column : column + side]
        np.testing.assert_array_equal(tile[2:-2, 2:-2, 0], images[place, 0])
        framed = (tile[0] != waiting[0, 0]).any()
        assert framed == (place in (0, 6))


def test_a_picture_of_large_images_stays_small():
    images = np.full((3, 3, 224, 224), 200, np.uint8)
    shown = picture(images, np.array([True, False, False]), 5)
    assert shown.shape == (2 * 60, 3 * 60, 3)
    assert (shown[60:] == shown[-1, -1]).all()  # three places of five are taken


@pytest.mark.parametrize("name", IDS)
@pytest.mark.told("Environments", "`render_mode='human'`")
def test_another_render_mode_is_refused(name):
    with pytest.raises(ValueError, match="render_mode: unknown name 'human'; known: rgb_array"):
        ENVS[name](render_mode="human")


def test_videos_are_recorded(tiny_npz, tmp_path):
    pytest.importorskip("moviepy")
    env = made(IDS[1], tiny_npz, render_mode="rgb_array")
    env = wrappers.RecordVideo(env, str(tmp_path), disable_logger=True)
    env.reset(seed=0)
    env.step(4)
    env.close()
    assert [one.suffix for one in tmp_path.glob("*.mp4")] == [".mp4"]


# ---------------------------------------------------------------------------- TorchRL


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [{}, {"from_pixels": True, "pixels_only": False}])
@pytest.mark.parametrize("name", IDS)
def test_torchrl_makes_the_environments_by_their_ids(tiny_npz, name, pixels):
    envs = pytest.importorskip("torchrl.envs")
    from torchrl.envs.utils import check_env_specs

    # TorchRL takes `batch_size` for itself.
    options = {k: v for k, v in SMALL.items() if k != "batch_size"} | {"dataset": "digits"}
    options |= LONG if name == "gstds/KeepRatio-v0" else {}
    env = envs.GymEnv(name, limit=300, **options, **pixels)
    check_env_specs(env)
    steps = env.rollout(2)
    assert steps.batch_size == (2,)
    assert ("pixels" in steps.keys()) == bool(pixels)  # noqa: SIM118  (a TensorDict)
    env.close()
