"""An agent's network in numpy: answers without the library that trained it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gstds.common.state import Stateful
from gstds.policies.learned.agent_file import AgentFile

__all__ = ["Actor"]

Floats = npt.NDArray[np.float64]


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
        self.reset()

    def reset(self) -> None:
        """Forget what was seen: a run begins."""
        self._state: tuple[Floats, Floats] | None = None
        if "lstm_hidden" in self._tensors:
            size = self._tensors["lstm_hidden"].shape[1]
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
        if self._state is not None:
            x = self._remember(x)
        for layer in range(self._layers):
            x = tensors[f"weight_{layer}"] @ x + tensors[f"bias_{layer}"]
            if layer < self._layers - 1:
                x = np.tanh(x) if self._agent.activation == "tanh" else np.maximum(x, 0.0)
        return x

    def _remember(self, x: Floats) -> Floats:
        """Run an LSTM cell (gates in torch's order: input, forget, cell, output)."""
        assert self._state is not None  # noqa: S101  (narrows the type)
        hidden, cell = self._state
        tensors = self._tensors
        gates = tensors["lstm_input"] @ x + tensors["lstm_hidden"] @ hidden + tensors["lstm_bias"]
        i, f, g, o = np.split(gates, 4)
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
        hidden = _sigmoid(o) * np.tanh(cell)
        self._state = (hidden, cell)
        return hidden


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
