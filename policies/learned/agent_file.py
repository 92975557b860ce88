"""A trained agent as data: a folder with ``agent.json`` and ``agent.safetensors``, no code in it.

The JSON says what the agent sees, what its answers mean, and how it came about; the safetensors
hold the actor network and the normalization of what it sees. The JSON is written last and holds the
tensors' checksum, so that a pair is whole or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from gstds.common.checks import near_names
from gstds.common.checksummed_json import read_sealed, write_sealed
from gstds.common.files import sha256, write_bytes
from gstds.observation.summary import SUMMARY_NAMES
from gstds.policies.learned.shipped import SHIPPED, shipped_agents

__all__ = [
    "ENVIRONMENT",
    "FORMAT_VERSION",
    "AgentFile",
    "AgentFileError",
    "find_agent",
    "load_agent",
    "save_agent",
]

FORMAT_VERSION = 1
ENVIRONMENT = "gstds/KeepRatio-v0"
_ACTIVATIONS = ("tanh", "relu")
_SIZE_LIMIT = 64 * 2**20
Tensors = dict[str, npt.NDArray[np.float32]]


class AgentFileError(ValueError):
    """An agent's files are damaged, or were made for something else."""


@dataclass(frozen=True)
class AgentFile:
    """What is stored of an agent.

    Attributes:
        actions: ``{"kind": "discrete", "ratios": [...]}`` or ``{"kind": "box"}``.
        activation: ``tanh`` or ``relu``, between the layers.
        interval: Drawn batches between decisions.
        picker: Which samples are kept: a name of `gstds.selection.pickers.RATIO_PICKERS`.
        observe: Further optional observations that it was trained with, name -> options.
        squash: Whether a box action is the tanh of the network's answer (SAC) or clipped (PPO).
        tensors: ``mean`` (S,), ``std`` (S,), and ``weight_0`` (H, S), ``bias_0`` (H,), and so on;
            a recurrent agent also has ``lstm_input`` (4H, S), ``lstm_hidden`` (4H, H) and
            ``lstm_bias`` (4H,), before the layers.
        training: Where it comes from: algorithm, command, instances, cost.
    """

    actions: Mapping[str, Any]
    activation: str
    interval: int
    picker: str
    tensors: Tensors
    observe: Mapping[str, Any] = field(default_factory=dict)
    squash: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)


def save_agent(folder: str | Path, agent: AgentFile) -> None:
    """Write an agent's two files.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    data = save_tensors(dict(sorted(agent.tensors.items())))
    note = {
        "version": FORMAT_VERSION,
        "environment": ENVIRONMENT,
        "observation": list(SUMMARY_NAMES),
        "actions": dict(agent.actions),
        "activation": agent.activation,
        "squash": agent.squash,
        "interval": agent.interval,
        "picker": agent.picker,
        "observe": {name: dict(options) for name, options in agent.observe.items()},
        "training": dict(agent.training),
        "sha256": sha256(data),
    }
    write_bytes(folder / "agent.safetensors", data)
    write_sealed(folder / "agent.json", note)


def find_agent(name: str) -> Path:
    """Return an agent's folder: a path, or the name of a shipped agent.

    Raises:
        AgentFileError: If there is none; the message lists the shipped ones.
    """
    for folder in (Path(name), SHIPPED / name):
        if name and (folder / "agent.json").is_file():
            return folder
    raise AgentFileError(
        f"learned:{name}: no agent.json in a folder of that name, and no shipped agent; "
        f"{near_names(name, shipped_agents())}"
    )


def load_agent(name: str) -> AgentFile:
    """Read an agent, without pickle and without running anything of it.

    Args:
        name: Its folder, or the name of a shipped agent.

    Raises:
        AgentFileError: If it is not there, damaged, not finite, or made for another version or
            observation; the message names the file and what is wrong.
    """
    folder = find_agent(name)
    note = _note(folder / "agent.json")
    _check_note(folder / "agent.json", note)
    tensors = _tensors(folder / "agent.safetensors", str(note.get("sha256")))
    agent = AgentFile(
        actions=note["actions"],
        activation=note["activation"],
        interval=int(note["interval"]),
        picker=note["picker"],
        tensors=tensors,
        observe=note["observe"],
        squash=bool(note["squash"]),
        training=note["training"],
    )
    _check_shapes(folder / "agent.safetensors", agent)
    return agent


def _note(path: Path) -> dict[str, Any]:
    try:
        return read_sealed(path)
    except ValueError as error:
        raise AgentFileError(f"{error}; export the agent again") from error
    except OSError as error:
        raise AgentFileError(f"{path} cannot be read: {error.strerror}") from error


def _check_note(path: Path, note: Mapping[str, Any]) -> None:
    if note.get("version") != FORMAT_VERSION:
        raise AgentFileError(
            f"{path}: version must be {FORMAT_VERSION}, got {note.get('version')!r}; "
            "export the agent again with this release"
        )
    if note.get("environment") != ENVIRONMENT:
        raise AgentFileError(
            f"{path}: environment must be {ENVIRONMENT!r}, got {note.get('environment')!r}"
        )
    if note.get("observation") != list(SUMMARY_NAMES):
        raise AgentFileError(
            f"{path}: the agent sees other scalars than gstds.observation.summary.SUMMARY_NAMES; "
            "train it anew"
        )
    if note.get("activation") not in _ACTIVATIONS:
        raise AgentFileError(f"{path}: unknown activation {note.get('activation')!r}")
    wanted = {"actions": dict, "interval": int, "picker": str, "observe": dict, "training": dict}
    for key, kind in (wanted | {"squash": bool}).items():
        if not isinstance(note.get(key), kind):
            raise AgentFileError(f"{path}: {key} must be a {kind.__name__}, got {note.get(key)!r}")
    if note["interval"] < 1:
        raise AgentFileError(f"{path}: interval must be at least 1, got {note['interval']}")


def _tensors(path: Path, digest: str) -> Tensors:
    try:
        if path.stat().st_size > _SIZE_LIMIT:
            raise AgentFileError(f"{path} is larger than an agent can be")
        data = path.read_bytes()
    except OSError as error:
        raise AgentFileError(f"{path} cannot be read: {error.strerror}") from error
    if sha256(data) != digest:
        raise AgentFileError(
            f"{path} is damaged or truncated: its checksum does not match agent.json"
        )
    try:
        tensors = load_tensors(data)
    except Exception as error:
        raise AgentFileError(f"{path} holds no tensors: {error}") from error
    for name, value in tensors.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise AgentFileError(f"{path}: tensor {name!r} must be float32 and finite, without NaN")
    return tensors


def _check_shapes(path: Path, agent: AgentFile) -> None:
    """Refuse tensors that do not make a network from the summary to the actions."""
    tensors, size = agent.tensors, len(SUMMARY_NAMES)
    kind, ratios = agent.actions.get("kind"), agent.actions.get("ratios", [])
    outputs = len(ratios) if kind == "discrete" else 1
    wanted: dict[str, tuple[int, ...]] = {"mean": (size,), "std": (size,)}
    width = size
    if "lstm_input" in tensors:
        hidden = tensors["lstm_input"].shape[0] // 4
        wanted |= {"lstm_input": (4 * hidden, size), "lstm_hidden": (4 * hidden, hidden)}
        wanted["lstm_bias"] = (4 * hidden,)
        width = hidden
    layer = 0
    while f"weight_{layer}" in tensors:
        rows = tensors[f"weight_{layer}"].shape[0]
        wanted |= {f"weight_{layer}": (rows, width), f"bias_{layer}": (rows,)}
        width, layer = rows, layer + 1
    found = {name: value.shape for name, value in tensors.items()}
    legal = all(0.0 <= float(r) <= 1.0 for r in ratios) and kind in ("discrete", "box")
    if found != wanted or layer == 0 or width != outputs or not legal:
        raise AgentFileError(
            f"{path}: the tensors {found} make no network from {size} scalars to {outputs} actions"
        )
    if (tensors["std"] <= 0).any():
        raise AgentFileError(f"{path}: std must be above 0")
