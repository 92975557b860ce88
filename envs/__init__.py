"""The world as gymnasium environments: data, learner, rewards.

Importing this package registers ``gstds/DataSelection-v0``.
"""

from gymnasium.envs.registration import register, registry

from envs.datasets import load_data
from envs.options import EnvOptions
from envs.selection_env import DataSelectionEnv

__all__ = ["DataSelectionEnv", "EnvOptions", "load_data"]

if "gstds/DataSelection-v0" not in registry:
    register(
        id="gstds/DataSelection-v0",
        entry_point="envs.selection_env:DataSelectionEnv",
        order_enforce=True,
    )
