"""The world as gymnasium environments: data, learner, rewards.

Importing this package registers ``gstds/DataSelection-v0`` and ``gstds/KeepRatio-v0``.
"""

from gymnasium.envs.registration import register, registry

from envs.datasets import load_data
from envs.forks import survive_forks
from envs.keep_ratio_env import KeepRatioEnv
from envs.options import EnvOptions
from envs.selection_env import DataSelectionEnv

__all__ = ["DataSelectionEnv", "EnvOptions", "KeepRatioEnv", "load_data"]

survive_forks()

if "gstds/DataSelection-v0" not in registry:
    register(
        id="gstds/DataSelection-v0",
        entry_point="envs.selection_env:DataSelectionEnv",
        order_enforce=True,
    )

if "gstds/KeepRatio-v0" not in registry:
    register(
        id="gstds/KeepRatio-v0",
        entry_point="envs.keep_ratio_env:KeepRatioEnv",
        order_enforce=True,
    )
