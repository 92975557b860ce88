"""Selection within shards: the drawn batch in parts, each with a policy of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.observation.batch_view import shard_slices
from gstds.policies.base import Observation, Policy, RunContext, Transition, Weights

__all__ = ["Sharded"]


class Sharded(Policy):
    """Gives each shard of the drawn batch to one of several equal policies.

    Each sees its shard as a whole batch, padded where shards differ by a sample, and learns from
    what became of it. So a step's graph is several small ones: what selection costs can be divided
    among processes, and which samples are kept does not depend on how many processes there are.

    Args:
        parts: One policy for each shard, of one kind and with the same parameters.

    Raises:
        ValueError: If there are no policies.
    """

    state = ("parts",)

    def __init__(self, parts: Sequence[Policy]) -> None:
        if not parts:
            raise ValueError("parts must hold a policy for each shard, got none")
        self.parts = tuple(parts)
        first = self.parts[0]
        self.needs = first.needs
        self.max_weight, self.normalizer = first.max_weight, first.normalizer
        self.uses_reward = first.uses_reward

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run: each part with another seed, for batches of a shard's size."""
        own = self._context(context)
        for number, part in enumerate(self.parts):
            part.reset((seed + number * 0x9E3779B9) % 2**32, own)

    def _context(self, context: RunContext) -> RunContext:
        count = len(self.parts)
        return replace(context, batch_size=-(-context.batch_size // count), shards=count)

    def act(self, observation: Observation) -> Weights:
        """Return the weights (N,) that the parts give to their shards."""
        weights = np.zeros(len(observation["valid"]), dtype=np.float32)
        for part, rows in self._shards(observation):
            weights[rows] = part.act(self._view(observation, rows))[: rows.stop - rows.start]
        return weights

    def learn(self, transition: Transition) -> None:
        """Have each part learn from its shard."""
        following = transition.next_observation
        after = shard_slices(_drawn(following), len(self.parts))
        slices = shard_slices(_drawn(transition.observation), len(self.parts))
        for part, rows, later in zip(self.parts, slices, after, strict=True):
            if rows.start == rows.stop:
                continue
            info = self._view(transition.info, rows, len(transition.weights))
            info |= {
                "drawn": rows.stop - rows.start,
                "kept": int((transition.weights[rows] > 0).sum()),
            }
            part.learn(
                Transition(
                    self._view(transition.observation, rows),
                    self._padded(transition.weights, rows, len(transition.weights)),
                    transition.reward,
                    self._view(following, later),
                    info,
                )
            )

    def step_flops(self, drawn: int, kept: int, context: RunContext) -> float:
        """Return the sum of what the parts take, each for its share of the kept samples."""
        own, count = self._context(context), len(self.parts)
        shares = zip(shard_slices(drawn, count), shard_slices(kept, count), strict=True)
        return sum(
            part.step_flops(rows.stop - rows.start, of_it.stop - of_it.start, own)
            for part, (rows, of_it) in zip(self.parts, shares, strict=True)
        )

    def _shards(self, observation: Observation) -> list[tuple[Policy, slice]]:
        """Return each part that has samples, with their rows."""
        slices = shard_slices(_drawn(observation), len(self.parts))
        return [(p, s) for p, s in zip(self.parts, slices, strict=True) if s.start < s.stop]

    def _view(
        self, values: Mapping[str, Any], rows: slice, count: int | None = None
    ) -> dict[str, Any]:
        """Return the shard's rows of what has a row for each sample, and all else as it is."""
        n = len(values["valid"]) if count is None else count
        return {name: self._padded(value, rows, n) for name, value in values.items()}

    def _padded(self, value: Any, rows: slice, n: int) -> Any:
        """Return a shard's rows, padded as the environment pads; what has no rows as it is."""
        if not isinstance(value, np.ndarray) or value.ndim == 0 or len(value) != n:
            return value
        own: npt.NDArray[Any] = value[rows]
        width = -(-n // len(self.parts))
        fill = -1 if value.dtype.kind == "i" else 0
        padding = np.full((width - len(own), *own.shape[1:]), fill, value.dtype)
        return np.concatenate([own, padding])


def _drawn(observation: Observation) -> int:
    return int(observation["valid"].sum())
