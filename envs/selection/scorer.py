"""The optional observations of a drawn batch, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gstds.common.process_group import Group
from gstds.envs.batches.loader import Loader
from gstds.envs.batches.order import Draws
from gstds.envs.learner.learner import Learner
from gstds.envs.learner.predictions import learner_view
from gstds.envs.selection.prefetch import Ahead
from gstds.envs.task.task import Task
from gstds.observation.batch_view import shard_slices, spectral_view
from gstds.observation.cost import Ledger
from gstds.observation.spec import OBSERVATIONS, asked_of

__all__ = ["Scorer"]

View = dict[str, Any]
Part = tuple[View, float]
"""What the cached features say of one shard, and its cost."""


class Scorer:
    """Scores drawn batches with the reference's cached features and with the learner.

    Args:
        task: Data, and the reference where something asks for one.
        observe: Optional observations, name -> options.
        draws: Which samples a step draws.
        learner: The network under training.
        loader: Loads images.
        ledger: Is charged.
        ahead: Solve a step's batch in a thread of its own once `begin` names it.
        shards: Parts of the batch that are scored each by itself. Of more than one, each process
            scores some, and all get all.
        group: The processes that train together; None for this one alone.
        embedding_width: Width of the learner's embeddings, where they are observed.

    Attributes:
        images: The augmented images (n, C, H, W) of the batch last scored, None if none or not all
            were loaded: the kept ones are trained on without a second load.
    """

    def __init__(
        self,
        task: Task,
        observe: Mapping[str, Mapping[str, Any]],
        draws: Draws,
        learner: Learner,
        loader: Loader,
        ledger: Ledger,
        *,
        ahead: bool = False,
        shards: int = 1,
        group: Group | None = None,
        embedding_width: int | None = None,
    ) -> None:
        # A reference that is there for distillation alone has no say here.
        self._reference = task.reference if asked_of(observe, "features", "reference") else None
        self._observe, self._draws = observe, draws
        self._learner, self._loader, self._ledger = learner, loader, ledger
        # The thread has draws of its own: the others remember one epoch's order at a time.
        self._others = Draws(draws.n, draws.batch_size, draws.seed)
        self._ahead = Ahead(self._view, active=ahead and self._reference is not None)
        self._looks_at_images = bool(asked_of(observe, "learner"))
        self._shards, self._group = shards, group or Group()
        self._embedding_width = embedding_width or 0
        self._joined: tuple[int, Part] | None = None
        self.images: torch.Tensor | None = None

    def score(self, step: int, *, charge: bool) -> dict[str, Any]:
        """Return the observations of a step's batch; charged unless they were before."""
        self.images = None
        raw = self._score_with_reference(step, charge)
        if self._looks_at_images:
            raw |= self._score_with_learner(step, charge)
        return raw

    @property
    def begun(self) -> frozenset[int]:
        """Steps of which the cached features' say is known or being computed, see `begin`."""
        return self._ahead.begun

    def flops(self, step: int) -> float:
        """Return what `score` charges for a step."""
        flops = self._spectral(step)[1]
        if self._looks_at_images:
            flops += len(self._draws.batch(step)) * self._learner.forward_flops
        return flops

    def _score_with_reference(self, step: int, charge: bool) -> dict[str, Any]:
        reference = self._reference
        if reference is None:
            return {}
        view, flops = self._spectral(step)
        if charge:
            self._ledger.charge("spectral", flops)
        return view | {"reference_losses": reference.losses[self._draws.batch(step)]}

    def _score_with_learner(self, step: int, charge: bool) -> View:
        batch = self._draws.batch(step)
        with self._ledger.timed("score"):
            own = self._own_shards(len(batch))
            seen = [self._learner_view(batch[rows], self._draws.epoch(step)) for _, rows in own]
            whole = sum(len(images) for images, _ in seen) == len(batch)
            self.images = _together([images for images, _ in seen]) if whole else None
            parts = [(rows, view) for (_, rows), (_, view) in zip(own, seen, strict=True)]
            view = self._join_rows(parts, len(batch), self._learner_shapes())
        if charge:
            self._ledger.charge("score", len(batch) * self._learner.forward_flops)
        return view

    def _learner_view(
        self, indices: npt.NDArray[np.int64], epoch: int
    ) -> tuple[torch.Tensor, View]:
        images, labels = self._loader.images(indices, epoch), self._loader.labels(indices)
        return images, dict(learner_view(self._learner, images, labels, self._observe))

    def _learner_shapes(self) -> dict[str, tuple[int, ...]]:
        sizes: dict[Any, int] = {"C": self._learner.classes, "H": self._embedding_width}
        names = asked_of(self._observe, "learner")
        return {name: tuple(sizes[s] for s in OBSERVATIONS[name].shape[1:]) for name in names}

    def begin(self, step: int, count: int = 1) -> None:
        """Start on what the cached features say of the batches of ``count`` steps on."""
        self._ahead.begin(step, count)

    def _spectral(self, step: int) -> Part:
        """Return what the cached features say of a step's batch, and its cost; solved once."""
        if self._reference is None:
            return {}, 0.0
        with self._ledger.timed("spectral"):
            parts: dict[int, Part] = self._ahead.take(step)
            if self._shards == 1:
                return parts[0]
            if self._joined is None or self._joined[0] != step:
                self._joined = step, self._join_parts(step, parts)
            return self._joined[1]

    def _view(self, step: int) -> dict[int, Part]:
        """Return what the cached features say of this process's shards."""
        assert self._reference is not None  # noqa: S101  (narrows the type)
        batch = self._others.batch(step)
        if self._shards == 1:
            return {0: spectral_view(self._reference.features(batch), self._observe)}
        observe = {name: o for name, o in self._observe.items() if name != "features"}
        return {
            shard: spectral_view(self._reference.features(batch[rows]), observe)
            for shard, rows in self._own_shards(len(batch))
        }

    def _own_shards(self, n: int) -> list[tuple[int, slice]]:
        """Return this process's shards that have samples, with their rows; a sole shard always."""
        shards = enumerate(shard_slices(n, self._shards))
        mine = [(i, rows) for i, rows in shards if i % self._group.size == self._group.rank]
        if self._shards == 1:
            return [(0, slice(0, n))]
        return [(i, rows) for i, rows in mine if rows.start < rows.stop]

    def _join_parts(self, step: int, parts: Mapping[int, Part]) -> Part:
        """Return all shards' rows, the mean of their statistics, and the sum of their costs."""
        assert self._reference is not None  # noqa: S101  (narrows the type)
        batch = self._draws.batch(step)
        slices = shard_slices(len(batch), self._shards)
        asked = asked_of(self._observe, "features")
        names = [name for name in asked if OBSERVATIONS[name].shape == ("N",)]
        own = [(slices[shard], view) for shard, (view, _) in parts.items()]
        view = self._join_rows(own, len(batch), dict.fromkeys(names, ()))
        statistics = [name for name, row in OBSERVATIONS.items() if row.beside in asked]
        table = np.zeros((1 + len(statistics), self._shards))
        for shard, (seen, flops) in parts.items():
            table[:, shard] = [flops, *(seen[name] for name in statistics)]
        table = self._group.join(table)
        met = sum(rows.start < rows.stop for rows in slices)
        view |= {n: float(row.sum()) / met for n, row in zip(statistics, table[1:], strict=True)}
        if "features" in self._observe:
            view["features"] = self._reference.features(batch)
        return view, float(table[0].sum())

    def _join_rows(
        self, parts: list[tuple[slice, View]], n: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> View:
        """Return arrays (n, ...) of which each process has the rows of its shards."""
        if self._shards == 1:
            return parts[0][1]
        joined: View = {}
        for name, shape in shapes.items():
            values = np.zeros((n, *shape), np.float32)
            for rows, view in parts:
                values[rows] = view[name]
            joined[name] = self._group.join(values)
        return joined


def _together(images: list[torch.Tensor]) -> torch.Tensor:
    return images[0] if len(images) == 1 else torch.cat(images)
