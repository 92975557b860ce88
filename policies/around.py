"""Policies around others: one for each shard of the drawn batch, or behind a filter of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gstds.observation.batch_view import shard_slices
from gstds.observation.shown import Shown
from gstds.policies.base import Observation, Policy, RunContext, Transition, Weights, transition_of
from gstds.selection.control import LabelTrust
from gstds.selection.weights import valid_batch


class _Around(Policy):
    """Declares what the policy inside does."""

    def __init__(self, inside: Policy) -> None:
        self.needs = inside.needs
        self.max_weight, self.normalizer = inside.max_weight, inside.normalizer
        self.uses_reward = inside.uses_reward


class Sharded(_Around):
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
        super().__init__(self.parts[0])

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run: each part with another seed, for batches of a shard's size."""
        for number, part in enumerate(self.parts):
            part.reset((seed + number * 0x9E3779B9) % 2**32, self._context(context))

    def _context(self, context: RunContext) -> RunContext:
        count = len(self.parts)
        return replace(context, batch_size=-(-context.batch_size // count), shards=count)

    def act(self, observation: Observation) -> Weights:
        """Return the weights (N,) that the parts give to their shards."""
        weights = np.zeros(len(observation["valid"]), dtype=np.float32)
        for part, rows in self._shards(observation):
            view = self._view(observation, rows, len(weights))
            answer = part.act(Shown(view, type(part).__name__))
            weights[rows] = answer[: rows.stop - rows.start]
        return weights

    def learn(self, transition: Transition) -> None:
        """Have each part learn from its shard."""
        seen, following = transition.observation, transition.next_observation
        n = len(transition.weights)
        for part, rows, later in self._shards(seen, following):
            own = self._view({**transition.info, "weights": transition.weights}, rows, n)
            kept = own.pop("weights")
            own |= {"drawn": rows.stop - rows.start, "kept": int((kept > 0).sum())}
            before, after = self._view(seen, rows, n), self._view(following, later, n)
            reward = transition.reward if self.uses_reward else 0.0
            part.learn(transition_of(part, before, kept, reward, after, own))

    def step_flops(self, drawn: int, kept: int, context: RunContext) -> float:
        """Return the sum of what the parts take, each for its share of the kept samples."""
        own, count = self._context(context), len(self.parts)
        return sum(
            part.step_flops(rows.stop - rows.start, of_it.stop - of_it.start, own)
            for part, rows, of_it in zip(
                self.parts, shard_slices(drawn, count), shard_slices(kept, count), strict=True
            )
        )

    def _shards(self, *observations: Observation) -> list[tuple[Any, ...]]:
        """Return each part that has samples in the first, with its rows in each."""
        count = len(self.parts)
        rows = [shard_slices(int(seen["valid"].sum()), count) for seen in observations]
        shards = zip(self.parts, *rows, strict=True)
        return [shard for shard in shards if shard[1].start < shard[1].stop]

    def _view(self, values: Mapping[str, Any], rows: slice, n: int) -> dict[str, Any]:
        """Return the rows of what has n, padded as the environment pads, all else as it is."""
        view, width = dict(values), -(-n // len(self.parts))
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.shape[:1] == (n,):
                fill = -1 if value.dtype.kind == "i" else 0
                view[name] = np.full((width, *value.shape[1:]), fill, value.dtype)
                view[name][: rows.stop - rows.start] = value[rows]
        return view


class Trusting(_Around):
    """Another policy, that is to keep nothing whose label is not trusted.

    It keeps as many samples of a batch as it would, if there are as many trusted ones; ``trust``
    among what it observes says which (`gstds.selection.weights.weights_for_ratio` goes by that).
    What a policy keeps all the same is dropped.

    Args:
        policy: The policy.
        kind: What a label is trusted by: ``reference`` or ``agreement``.
    """

    state = ("policy", "_trust")

    def __init__(self, policy: Policy, kind: str) -> None:
        super().__init__(policy)
        self.policy, self.kind, self._trust = policy, kind, LabelTrust(kind)
        self.needs = {**policy.needs, **self._trust.needs}

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run."""
        self._trust.begin(context.num_classes, "trust='none'")
        self.policy.reset(seed, context)

    def act(self, observation: Observation) -> Weights:
        """Return the policy's weights (N,), 0 where a label is not trusted."""
        rows, batch = valid_batch(observation)
        trust = np.zeros(len(observation["valid"]), dtype=np.float32)
        trust[rows] = self._trust.of(batch) if len(rows) else 0.0
        seen = self._shown(observation) | {"trust": trust}
        weights = np.asarray(self.policy.act(Shown(seen, type(self.policy).__name__)))
        return np.where(trust > 0, weights, np.float32(0))

    def learn(self, transition: Transition) -> None:
        """Have the policy learn, and remember what the reference said of the batch."""
        self._trust.learn(transition.observation)
        before, after = map(self._shown, (transition.observation, transition.next_observation))
        reward = transition.reward if self.uses_reward else 0.0
        self.policy.learn(
            transition_of(self.policy, before, transition.weights, reward, after, transition.info)
        )

    def _shown(self, observation: Observation) -> dict[str, Any]:
        hidden = self._trust.needs.keys() - self.policy.needs.keys()
        return {name: value for name, value in observation.items() if name not in hidden}

    def step_flops(self, drawn: int, kept: int, context: RunContext) -> float:
        """Return the policy's own."""
        return self.policy.step_flops(drawn, kept, context)
