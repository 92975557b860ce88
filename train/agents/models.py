"""Agents of Stable-Baselines3 by name: made, exported as data, saved without pickle."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gstds.common.checks import check_choice, near_names
from gstds.observation.summary import SUMMARY_NAMES
from gstds.policies.learned.agent_file import Tensors

__all__ = ["AGENTS", "Algorithm", "actor_tensors", "make_model", "model_state", "restore_model"]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm that `gstds learn` knows.

    Attributes:
        module: Where its class is.
        name: The class.
        policy: The kind of network it is made with.
        action: ``discrete`` or ``box``: what it learns with unless told.
        text: One line of description.
        defaults: Parameters that differ from the library's: episodes here are short.
    """

    module: str
    name: str
    policy: str
    action: str
    text: str
    defaults: Mapping[str, Any]


_NETWORK: dict[str, Any] = {"net_arch": [32, 32]}
# Undiscounted: a small keep ratio makes more decisions of the same budget, and must not pay for it.
_ON_POLICY: dict[str, Any] = {"n_steps": 256, "learning_rate": 1e-3, "gamma": 1.0}

AGENTS: dict[str, Algorithm] = {
    "ppo": Algorithm(
        "stable_baselines3",
        "PPO",
        "MlpPolicy",
        "discrete",
        "proximal policy optimization",
        {**_ON_POLICY, "batch_size": 64, "ent_coef": 0.01},
    ),
    "a2c": Algorithm(
        "stable_baselines3",
        "A2C",
        "MlpPolicy",
        "discrete",
        "advantage actor-critic",
        {"n_steps": 32, "learning_rate": 1e-3, "gamma": 1.0, "ent_coef": 0.01},
    ),
    "dqn": Algorithm(
        "stable_baselines3",
        "DQN",
        "MlpPolicy",
        "discrete",
        "deep Q-network",
        {
            "learning_rate": 1e-3,
            "learning_starts": 200,
            "buffer_size": 20_000,
            "target_update_interval": 200,
            "exploration_fraction": 0.3,
            "gamma": 1.0,
        },
    ),
    "sac": Algorithm(
        "stable_baselines3",
        "SAC",
        "MlpPolicy",
        "box",
        "soft actor-critic, with a continuous keep ratio",
        {"learning_rate": 1e-3, "learning_starts": 200, "buffer_size": 20_000},
    ),
    "recurrent-ppo": Algorithm(
        "sb3_contrib",
        "RecurrentPPO",
        "MlpLstmPolicy",
        "discrete",
        "proximal policy optimization with a memory (LSTM)",
        {**_ON_POLICY, "batch_size": 64, "ent_coef": 0.01},
    ),
}


def make_model(name: str, env: Any, *, seed: int, parameters: Mapping[str, Any]) -> Any:
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
    import importlib
    import inspect

    algorithm = AGENTS[check_choice("agent", name, AGENTS)]
    try:
        kind = getattr(importlib.import_module(algorithm.module), algorithm.name)
    except ImportError as error:
        raise ImportError(f"agent {name!r} needs: pip install 'gstds[rl]' ({error})") from error
    known = inspect.signature(kind).parameters
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(
                f"agent {name!r} has no parameter {parameter!r}; " + near_names(parameter, known)
            )
    network = _NETWORK | ({"lstm_hidden_size": 32} if name == "recurrent-ppo" else {})
    options = {"policy_kwargs": network, **algorithm.defaults, **parameters}
    model = kind(algorithm.policy, env, seed=seed, device="cpu", verbose=0, **options)
    # The library's default logger leaves an empty folder in the system's temporary one each time.
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def actor_tensors(model: Any) -> tuple[Tensors, str, bool]:
    """Return what the actor's answer takes: its tensors, the activation, whether tanh ends it."""
    policy = model.policy
    if hasattr(policy, "q_net"):
        layers, squash = list(policy.q_net.q_net), False
    elif hasattr(policy, "actor") and hasattr(policy.actor, "mu"):
        layers, squash = [*policy.actor.latent_pi, policy.actor.mu], True
    else:
        layers, squash = [*policy.mlp_extractor.policy_net, policy.action_net], False
    tensors = _linear(layers)
    if hasattr(policy, "lstm_actor"):
        lstm = policy.lstm_actor
        tensors |= {
            "lstm_input": _numpy(lstm.weight_ih_l0),
            "lstm_hidden": _numpy(lstm.weight_hh_l0),
            "lstm_bias": _numpy(lstm.bias_ih_l0 + lstm.bias_hh_l0),
        }
    size = len(SUMMARY_NAMES)
    tensors |= {"mean": np.zeros(size, np.float32), "std": np.ones(size, np.float32)}
    relu = any(isinstance(layer, torch.nn.ReLU) for layer in layers)
    return tensors, "relu" if relu else "tanh", squash


def _linear(layers: list[Any]) -> Tensors:
    tensors: Tensors = {}
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    for number, layer in enumerate(linear):
        tensors[f"weight_{number}"] = _numpy(layer.weight)
        tensors[f"bias_{number}"] = _numpy(layer.bias)
    return tensors


def _numpy(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().numpy().astype(np.float32).copy()


_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "exploration_rate", "_episode_num")
_ARRAYS = ("_last_obs", "_last_episode_starts")
_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def model_state(model: Any) -> dict[str, Any]:
    """Return what a model needs to go on learning just so: arrays and JSON-able values.

    To be taken between two rollouts, when on-policy algorithms hold no data.
    """
    state: dict[str, Any] = {
        "parameters": {name: _parameters(part) for name, part in model.get_parameters().items()},
        "counters": {n: getattr(model, n) for n in _COUNTERS if hasattr(model, n)},
        "arrays": {n: np.array(getattr(model, n)) for n in _ARRAYS},
        "torch": torch.get_rng_state(),
        "numpy": _numpy_generator(),
        "python": list(random.getstate()[1]),
        "action_space": model.action_space.np_random.bit_generator.state,
    }
    if getattr(model, "_last_lstm_states", None) is not None:
        states = model._last_lstm_states
        state["lstm"] = [[part.clone() for part in pair] for pair in (states.pi, states.vf)]
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        filled = buffer.buffer_size if buffer.full else buffer.pos
        state["buffer"] = {n: getattr(buffer, n)[:filled].copy() for n in _BUFFER}
        state["buffer_position"] = [int(buffer.pos), bool(buffer.full)]
    return state


def _numpy_generator() -> list[Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  (the library's)
    return [name, np.array(keys).astype(np.int64), position, has_gauss, gauss]


def _parameters(part: Any) -> Any:
    """Return a state dict with whole numbers as names turned to text."""
    if isinstance(part, Mapping):
        return {str(k): _parameters(v) for k, v in part.items()}
    return part


def restore_model(model: Any, state: Mapping[str, Any]) -> None:
    """Take up what `model_state` returned, in a model made with the same arguments."""
    own = model.get_parameters()
    given = {name: _like(own[name], part) for name, part in state["parameters"].items()}
    model.set_parameters(given, exact_match=True, device="cpu")
    for name, value in state["counters"].items():
        setattr(model, name, value)
    for name, value in state["arrays"].items():
        setattr(model, name, np.array(value))
    if "lstm" in state:
        kind = type(model._last_lstm_states)
        model._last_lstm_states = kind(*(tuple(pair) for pair in state["lstm"]))
    if "buffer" in state:
        for name, value in state["buffer"].items():
            getattr(model.replay_buffer, name)[: len(value)] = value
        model.replay_buffer.pos, model.replay_buffer.full = state["buffer_position"]
    model.action_space.np_random.bit_generator.state = state["action_space"]
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    random.setstate((3, tuple(int(n) for n in state["python"]), None))


def _like(own: Any, given: Any) -> Any:
    """Return a stored state dict with the own one's names: an optimizer's are whole numbers."""
    if isinstance(given, Mapping):
        whole = isinstance(own, Mapping) and (not own or any(isinstance(k, int) for k in own))
        made = {}
        for name, value in given.items():
            key = int(name) if whole and name.isdigit() else name
            made[key] = _like(own.get(key, {}) if isinstance(own, Mapping) else {}, value)
        return made
    return given
