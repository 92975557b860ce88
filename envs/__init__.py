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

for _id, _entry in (
    ("gstds/DataSelection-v0", "gstds.envs.selection.env:DataSelectionEnv"),
    ("gstds/KeepRatio-v0", "gstds.envs.keep_ratio.env:KeepRatioEnv"),
):
    if _id not in registry:
        register(id=_id, entry_point=_entry, order_enforce=True)
