"""Agents of Stable-Baselines3 by name: made, exported as data, saved without pickle."""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from gstds.common.checks import check_choice, check_known
from gstds.observation.summary import SUMMARY_NAMES
from gstds.policies.learned.agent_file import Tensors


class Algorithm(NamedTuple):
    """An algorithm that `gstds learn` knows.

    Attributes:
        kind: Its class.
        action: ``discrete`` or ``box``: what it learns with unless told.
        text: One line of description.
        defaults: Parameters that differ from the library's: episodes here are short.
        module: Where its class is.
        policy: The kind of network it is made with.
        network: What else that is made with.
    """

    kind: str
    action: str
    text: str
    defaults: Mapping[str, Any]
    module: str = "stable_baselines3"
    policy: str = "MlpPolicy"
    network: Mapping[str, Any] = {}


# Undiscounted: a small keep ratio makes more decisions of the same budget, and must not pay for it.
_A2C = {"n_steps": 32, "learning_rate": 1e-3, "gamma": 1.0, "ent_coef": 0.01}
_PPO = _A2C | {"n_steps": 256, "batch_size": 64}
_SAC = {"learning_rate": 1e-3, "learning_starts": 200, "buffer_size": 20_000}
_DQN = _SAC | {"target_update_interval": 200, "exploration_fraction": 0.3, "gamma": 1.0}
_LSTM = ("sb3_contrib", "MlpLstmPolicy", {"lstm_hidden_size": 32})

AGENTS: dict[str, Algorithm] = {
    "ppo": Algorithm("PPO", "discrete", "proximal policy optimization", _PPO),
    "a2c": Algorithm("A2C", "discrete", "advantage actor-critic", _A2C),
    "dqn": Algorithm("DQN", "discrete", "deep Q-network", _DQN),
    "sac": Algorithm("SAC", "box", "soft actor-critic, with a continuous keep ratio", _SAC),
    "recurrent-ppo": Algorithm(
        "RecurrentPPO",
        "discrete",
        "proximal policy optimization with a memory (LSTM)",
        _PPO,
        *_LSTM,
    ),
}


def make_model(name: str, env: Any, seed: int, parameters: Mapping[str, Any]) -> Any:
    """Return an untrained model.

    Args:
        name: One of `AGENTS`.
        env: A vectorized environment of Stable-Baselines3.
        seed: Its seed.
        parameters: Parameters of the library's class; they win over the defaults here.

    Raises:
        ValueError: If the name or a parameter is unknown.
        ImportError: If the library is not installed; the message names the extra.
    """
    algorithm = AGENTS[check_choice("agent", name, AGENTS)]
    try:
        kind = getattr(importlib.import_module(algorithm.module), algorithm.kind)
    except ImportError as error:
        raise ImportError(f"agent {name!r} needs: pip install 'gstds[rl]' ({error})") from error
    check_known(f"agent {name!r}", "parameter", parameters, inspect.signature(kind).parameters)
    network = {"net_arch": [32, 32], **algorithm.network}
    options = {"policy_kwargs": network, **algorithm.defaults, **parameters}
    model = kind(algorithm.policy, env, seed=seed, device="cpu", verbose=0, **options)
    # The library's default logger leaves an empty folder in the system's temporary one each time.
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(folder=None, output_formats=[]))
    model.set_random_seed(seed)
    return model


def actor_tensors(model: Any) -> tuple[Tensors, str, bool]:
    """Return what the actor's answer takes: its tensors, the activation, whether tanh ends it."""
    policy, squash = model.policy, False
    if hasattr(policy, "q_net"):
        layers = list(policy.q_net.q_net)
    elif hasattr(policy, "actor") and hasattr(policy.actor, "mu"):
        layers, squash = [*policy.actor.latent_pi, policy.actor.mu], True
    else:
        layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    parts = {f"weight_{number}": layer.weight for number, layer in enumerate(linear)}
    parts |= {f"bias_{number}": layer.bias for number, layer in enumerate(linear)}
    if hasattr(policy, "lstm_actor"):
        lstm = policy.lstm_actor
        parts |= {"lstm_input": lstm.weight_ih_l0, "lstm_hidden": lstm.weight_hh_l0}
        parts["lstm_bias"] = lstm.bias_ih_l0 + lstm.bias_hh_l0
    tensors = {n: part.detach().cpu().numpy().astype(np.float32) for n, part in parts.items()}
    size = len(SUMMARY_NAMES)
    tensors |= {"mean": np.zeros(size, np.float32), "std": np.ones(size, np.float32)}
    relu = any(isinstance(layer, torch.nn.ReLU) for layer in layers)
    return tensors, "relu" if relu else "tanh", squash


_FIELDS: tuple[str, ...] = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num")
_FIELDS += ("exploration_rate", "_last_obs", "_last_episode_starts")
_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class ModelState:
    """What a model needs to go on learning just so, between two rollouts: its pair of methods.

    Written by hand: it is another library's object, and its on-policy algorithms hold no data then.

    Args:
        model: What `make_model` returned.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Return numbers, arrays and tensors; no copies."""
        model = self._model
        generator = np.random.get_state(legacy=False)  # noqa: NPY002  (the library's)
        generator["state"]["key"] = generator["state"]["key"].astype(np.int64)
        state: dict[str, Any] = {
            "parameters": model.get_parameters(),
            "fields": {name: getattr(model, name) for name in _FIELDS if hasattr(model, name)},
            "torch": torch.get_rng_state(),
            "numpy": generator,
            "python": random.getstate()[1],
            "action_space": model.action_space.np_random.bit_generator.state,
        }
        if getattr(model, "_last_lstm_states", None) is not None:
            state["lstm"] = list(model._last_lstm_states)
        buffer = getattr(model, "replay_buffer", None)
        if buffer is not None:
            state["buffer"] = {name: getattr(buffer, name)[: buffer.size()] for name in _BUFFER}
            state["buffer_position"] = (int(buffer.pos), bool(buffer.full))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, in a model made with the same arguments."""
        model = self._model
        model.set_parameters(state["parameters"], exact_match=True, device="cpu")
        for name, value in state["fields"].items():
            setattr(model, name, value)
        if "lstm" in state:
            kind = type(model._last_lstm_states)
            model._last_lstm_states = kind(*(tuple(pair) for pair in state["lstm"]))
        for name, value in state.get("buffer", {}).items():
            getattr(model.replay_buffer, name)[: len(value)] = value
        if "buffer" in state:
            model.replay_buffer.pos, model.replay_buffer.full = state["buffer_position"]
        model.action_space.np_random.bit_generator.state = state["action_space"]
        torch.set_rng_state(state["torch"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        random.setstate((3, tuple(state["python"]), None))
