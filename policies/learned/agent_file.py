"""A trained agent as data, and what it answers: ``agent.json`` and ``agent.safetensors``, no code.

The JSON says what the agent sees, what its answers mean, and how it came about; the safetensors
hold the actor network and the normalization of what it sees. The JSON is written last and holds the
tensors' checksum, so that a pair is whole or refused.
"""

from __future__ import annotations

import math
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
from gstds.common.state import Stateful
from gstds.observation.summary import SUMMARY_NAMES

_HEAD = {"version": 1, "environment": "gstds/KeepRatio-v0"}
_KINDS = {"actions": dict, "activation": str, "squash": bool, "interval": int, "picker": str}
_KINDS |= {"observe": dict, "training": dict}
_SIZE_LIMIT = 64 * 2**20
SHIPPED = Path(__file__).resolve().parent / "agents"
Floats = npt.NDArray[np.float64]
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
    data = save_tensors(dict(sorted(agent.tensors.items())))
    said = {name: kind(getattr(agent, name)) for name, kind in _KINDS.items()}
    note = {**_HEAD, "observation": list(SUMMARY_NAMES), **said, "sha256": sha256(data)}
    write_bytes(Path(folder) / "agent.safetensors", data)
    write_sealed(Path(folder) / "agent.json", note)


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


def shipped_agents() -> dict[str, str]:
    """Return the agents that come with the project, with one line of description each."""
    notes = {path.parent.name: read_sealed(path) for path in sorted(SHIPPED.glob("*/agent.json"))}
    none = "no description"
    return {name: str(note["training"].get("description", none)) for name, note in notes.items()}


def load_agent(name: str) -> AgentFile:
    """Read an agent, without pickle and without running anything of it.

    Args:
        name: Its folder, or the name of a shipped agent.

    Raises:
        AgentFileError: If it is not there, damaged, not finite, or made for another version or
            observation; the message names the file and what is wrong.
    """
    folder = find_agent(name)
    path = folder / "agent.json"
    try:
        note = read_sealed(path)
        _check_note(note)
        path = folder / "agent.safetensors"
        _refuse(path.stat().st_size > _SIZE_LIMIT, "it is larger than an agent can be")
        data = path.read_bytes()
        wrong = "damaged or truncated: its checksum does not match agent.json"
        _refuse(sha256(data) != note.get("sha256"), wrong)
        agent = AgentFile(tensors=_tensors(data), **{name: note[name] for name in _KINDS})
        _check_shapes(agent)
    except (OSError, ValueError) as error:
        mend = "export the agent again with this release"
        raise AgentFileError(f"{path}: {error}; {mend}") from error
    return agent


def _refuse(wrong: bool, what: str) -> None:
    if wrong:
        raise ValueError(what)


def _check_note(note: Mapping[str, Any]) -> None:
    for key, value in _HEAD.items():
        _refuse(note.get(key) != value, f"{key} must be {value!r}, got {note.get(key)!r}")
    others = "it sees other scalars than gstds.observation.summary.SUMMARY_NAMES: train it anew"
    _refuse(note.get("observation") != list(SUMMARY_NAMES), others)
    for key, kind in _KINDS.items():
        what = f"{key} must be a {kind.__name__}, got {note.get(key)!r}"
        _refuse(not isinstance(note.get(key), kind), what)
    known = note["activation"] in ("tanh", "relu")
    _refuse(not known, f"unknown activation {note['activation']!r}")
    _refuse(note["interval"] < 1, f"interval must be at least 1, got {note['interval']}")


def _tensors(data: bytes) -> Tensors:
    try:
        tensors = load_tensors(data)
    except Exception as error:
        raise ValueError(f"it holds no tensors: {error}") from error
    for name, value in tensors.items():
        finite = value.dtype == np.float32 and np.isfinite(value).all()
        _refuse(not finite, f"tensor {name!r} must be float32 and finite, without NaN")
    return tensors


def _check_shapes(agent: AgentFile) -> None:
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
    fits = found == wanted and layer > 0 and width == outputs and legal
    what = f"the tensors {found} make no network from {size} scalars to {outputs} actions"
    _refuse(not fits, what)
    _refuse(bool((tensors["std"] <= 0).any()), "std must be above 0")


class Actor(Stateful):
    """Answers a summary with a keep ratio, always the likeliest action.

    Args:
        agent: What was stored of the agent.
    """

    state = ("_state",)

    def __init__(self, agent: AgentFile) -> None:
        self._agent = agent
        self._tensors = {k: v.astype(np.float64) for k, v in agent.tensors.items()}
        self._layers = sum(name.startswith("weight_") for name in agent.tensors)
        self._recurrent = "lstm_hidden" in agent.tensors
        self.reset()

    def reset(self) -> None:
        """Forget what was seen: a run begins."""
        size = self._tensors["lstm_hidden"].shape[1] if self._recurrent else 0
        self._state = (np.zeros(size), np.zeros(size))

    def ratio(self, summary: npt.ArrayLike) -> float:
        """Return the keep ratio in [0, 1] for a summary (S,)."""
        answer = self.answer(summary)
        actions = self._agent.actions
        if actions["kind"] == "discrete":
            return float(actions["ratios"][int(np.argmax(answer))])
        value = math.tanh(float(answer[0])) if self._agent.squash else float(answer[0])
        return min(1.0, max(0.0, (1.0 + value) / 2.0))

    def answer(self, summary: npt.ArrayLike) -> Floats:
        """Return the network's last layer (A,) for a summary (S,)."""
        tensors = self._tensors
        x: Floats = (np.asarray(summary, dtype=np.float64) - tensors["mean"]) / tensors["std"]
        if self._recurrent:
            x = self._remember(x)
        for layer in range(self._layers):
            x = tensors[f"weight_{layer}"] @ x + tensors[f"bias_{layer}"]
            if layer < self._layers - 1:
                x = np.tanh(x) if self._agent.activation == "tanh" else np.maximum(x, 0.0)
        return x

    def _remember(self, x: Floats) -> Floats:
        """Run an LSTM cell (gates in torch's order: input, forget, cell, output)."""
        tensors, (hidden, cell) = self._tensors, self._state
        gates = tensors["lstm_input"] @ x + tensors["lstm_hidden"] @ hidden + tensors["lstm_bias"]
        i, f, g, o = np.split(gates, 4)
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
        hidden = _sigmoid(o) * np.tanh(cell)
        self._state = (hidden, cell)
        return hidden


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
