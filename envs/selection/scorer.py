"""The optional observations of a drawn batch, and what they cost.

What the next batch's cached features say is computed while the learner trains on this one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from gstds.envs.batches.order import Draws
from gstds.envs.learner.learner import embedding_width, learner_view
from gstds.envs.selection.run_parts import RunParts
from gstds.observation.batch_view import shard_slices, spectral_view
from gstds.observation.spec import OBSERVATIONS, asked_of

View = dict[str, Any]
Part = tuple[View, float]
"""What the cached features say of one shard, and its cost."""


class Scorer:
    """Scores drawn batches with the reference's cached features and with the learner.

    Of more than one shard each is scored by itself; each process scores some, and all get all.

    Args:
        run: What the run is made of.
        ahead: Solve a step's batch in a thread of its own once `begin` names it.

    Attributes:
        images: The augmented images (n, C, H, W) of the batch last scored, None if none or not all
            were loaded: the kept ones are trained on without a second load.
    """

    def __init__(self, run: RunParts, *, ahead: bool = False) -> None:
        self._run, self._observe, self._shards = run, run.options.observe, run.options.shards
        # A reference that is there for distillation alone has no say here.
        asked = asked_of(self._observe, "features", "reference")
        self._reference = run.task.reference if asked else None
        self._asked_of_learner = asked_of(self._observe, "learner")
        # The thread has draws of its own: the others remember one epoch's order at a time.
        self._others = Draws(run.draws.n, run.draws.batch_size, run.draws.seed)
        self._ahead = Ahead(self._view, active=ahead and self._reference is not None)
        self._joined: tuple[int, Part] | None = None
        self.images: torch.Tensor | None = None

    @property
    def begun(self) -> frozenset[int]:
        """Steps of which the cached features' say is known or being computed, see `begin`."""
        return self._ahead.begun

    def begin(self, step: int, count: int = 1) -> None:
        """Start on what the cached features say of the batches of ``count`` steps on."""
        self._ahead.begin(step, count)

    def flops(self, step: int) -> float:
        """Return what `score` charges for a step."""
        drawn = len(self._run.draws.batch(step)) if self._asked_of_learner else 0
        return self._spectral(step)[1] + drawn * self._run.learner.forward_flops

    def score(self, step: int, *, charge: bool) -> View:
        """Return the observations of a step's batch; charged unless they were before."""
        self.images = None
        seen: View = {}
        if self._reference is not None:
            view, flops = self._spectral(step)
            losses = self._reference.losses[self._run.draws.batch(step)]
            seen = view | {"reference_losses": losses}
            if charge:
                self._run.ledger.charge("spectral", flops)
        if self._asked_of_learner:
            seen |= self._score_with_learner(step, charge)
        return seen

    def _score_with_learner(self, step: int, charge: bool) -> View:
        run, batch = self._run, self._run.draws.batch(step)
        own = self._own_shards(len(batch))
        parts, loaded = [], []
        with run.ledger.timed("score"):
            for _, rows in own:
                images = run.loader.images(batch[rows], run.draws.epoch(step))
                labels = run.loader.labels(batch[rows])
                parts.append((rows, learner_view(run.learner, images, labels, self._observe)))
                loaded.append(images)
            if sum(map(len, loaded)) == len(batch):
                self.images = torch.cat(loaded) if len(loaded) > 1 else loaded[0]
            sizes = {"C": run.learner.classes}
            if "learner_embeddings" in self._asked_of_learner:
                sizes["H"] = embedding_width(run.learner)
            view = self._join_rows(parts, len(batch), self._asked_of_learner, sizes)
        if charge:
            run.ledger.charge("score", len(batch) * run.learner.forward_flops)
        return view

    def _spectral(self, step: int) -> Part:
        """Return what the cached features say of a step's batch, and its cost; solved once."""
        if self._reference is None:
            return {}, 0.0
        with self._run.ledger.timed("spectral"):
            parts: dict[int, Part] = self._ahead.take(step)
            if self._shards == 1:
                return parts[0]
            if self._joined is None or self._joined[0] != step:
                self._joined = step, self._join_parts(step, parts)
            return self._joined[1]

    def _view(self, step: int) -> dict[int, Part]:
        """Return what the cached features say of this process's shards."""
        assert self._reference is not None  # noqa: S101  (narrows the type)
        batch, observe = self._others.batch(step), dict(self._observe)
        if self._shards > 1:  # the features themselves are not passed between processes
            observe.pop("features", None)
        return {
            shard: spectral_view(self._reference.features(batch[rows]), observe)
            for shard, rows in self._own_shards(len(batch))
        }

    def _own_shards(self, n: int) -> list[tuple[int, slice]]:
        """Return this process's shards that have samples, with their rows; a sole shard always."""
        if self._shards == 1:
            return [(0, slice(0, n))]
        size, rank = self._run.group.size, self._run.group.rank
        mine = list(enumerate(shard_slices(n, self._shards)))[rank::size]
        return [(shard, rows) for shard, rows in mine if rows.start < rows.stop]

    def _join_parts(self, step: int, parts: Mapping[int, Part]) -> Part:
        """Return all shards' rows, the mean of their statistics, and the sum of their costs."""
        assert self._reference is not None  # noqa: S101  (narrows the type)
        batch = self._run.draws.batch(step)
        slices = shard_slices(len(batch), self._shards)
        asked = asked_of(self._observe, "features")
        names = [name for name in asked if OBSERVATIONS[name].shape == ("N",)]
        own = [(slices[shard], view) for shard, (view, _) in parts.items()]
        view = self._join_rows(own, len(batch), names, {})
        statistics = [name for name, row in OBSERVATIONS.items() if row.beside in asked]
        table = np.zeros((1 + len(statistics), self._shards))
        for shard, (seen, flops) in parts.items():
            table[:, shard] = [flops, *(seen[name] for name in statistics)]
        table = self._run.group.join(table)
        met = sum(rows.start < rows.stop for rows in slices)
        view |= {n: float(row.sum()) / met for n, row in zip(statistics, table[1:], strict=True)}
        if "features" in self._observe:
            view["features"] = self._reference.features(batch)
        return view, float(table[0].sum())

    def _join_rows(
        self, parts: list[tuple[slice, View]], n: int, names: list[str], sizes: Mapping[Any, int]
    ) -> View:
        """Return arrays (n, ...) of which each process has the rows of its shards."""
        if self._shards == 1:
            return parts[0][1]
        joined: View = {}
        for name in names:
            shape = (sizes[size] for size in OBSERVATIONS[name].shape[1:])
            values = np.zeros((n, *shape), np.float32)
            for rows, view in parts:
                values[rows] = view[name]
            joined[name] = self._run.group.join(values)
        return joined


class Ahead:
    """Answers for a step, from a thread that may have begun with it before it was asked.

    The answer depends on the step alone, so nothing of this is part of a run's state; and it always
    comes from that thread, so it is the same to the bit whether it was begun or not. Whoever begins
    steps must take one before doing linear algebra of their own, which waits for all that were
    begun: while the thread solves it holds numpy's BLAS to one thread, and with it the last bits of
    everybody's products.

    Args:
        compute: Step -> answer, free of side effects.
        active: False computes no sooner than asked.
    """

    def __init__(self, compute: Callable[[int], Any], *, active: bool) -> None:
        self._compute, self._active = compute, active
        self._begun: dict[int, Future[Any]] = {}
        self._process = os.getpid()

    @property
    def begun(self) -> frozenset[int]:
        """Steps that were begun, from the one last taken on."""
        return frozenset(self._begun)

    def begin(self, step: int, count: int = 1) -> None:
        """Start on ``count`` steps from ``step`` on, unless that is not wanted or was done."""
        for one in range(step, step + count) if self._active else ():
            self._start(one)

    def take(self, step: int) -> Any:
        """Return a step's answer; computed once, however often it is taken.

        Raises:
            Exception: Whatever ``compute`` raised.
        """
        answer = self._start(step)
        wait(self._begun.values())
        self._begun = {one: future for one, future in self._begun.items() if one >= step}
        return answer.result()

    def _start(self, step: int) -> Future[Any]:
        if self._process != os.getpid():  # forked: the thread that had begun these is not here
            self._process, self._begun = os.getpid(), {}
        if step not in self._begun:
            self._begun[step] = _pool(self._process).submit(self._compute, step)
        return self._begun[step]


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the process's one thread for this: a forked child does not have its parent's.

    Its torch operations take no other threads: those are the learner's.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix=f"gstds-ahead-{process}")
    learners = torch.get_num_threads()
    pool.submit(torch.set_num_threads, 1).result()
    # torch notes the last count said anywhere for threads to come; a count holds for its thread.
    torch.set_num_threads(learners)
    return pool
