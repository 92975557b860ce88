"""The world as gymnasium environments: data, learner, rewards.

Importing this package registers ``gstds/DataSelection-v0`` and ``gstds/KeepRatio-v0``.
"""

from gymnasium.envs.registration import register, registry

from gstds.common.forks import survive_forks
from gstds.envs.data.datasets import load_data
from gstds.envs.keep_ratio.env import KeepRatioEnv
from gstds.envs.selection.env import DataSelectionEnv
from gstds.envs.task.options import EnvOptions

__all__ = ["DataSelectionEnv", "EnvOptions", "KeepRatioEnv", "load_data"]

survive_forks()

if "gstds/DataSelection-v0" not in registry:
    register(
        id="gstds/DataSelection-v0",
        entry_point="gstds.envs.selection.env:DataSelectionEnv",
        order_enforce=True,
    )

if "gstds/KeepRatio-v0" not in registry:
    register(
        id="gstds/KeepRatio-v0",
        entry_point="gstds.envs.keep_ratio.env:KeepRatioEnv",
        order_enforce=True,
    )
