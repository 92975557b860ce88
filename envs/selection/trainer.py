"""Updates on the kept samples, and what each sample's last update left behind."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gstds.common.state import Stateful
from gstds.envs.selection.run_parts import RunParts
from gstds.envs.task.task import make_teacher
from gstds.observation.batch_view import step_noise
from gstds.observation.memory import SampleMemory
from gstds.selection.weights import uniform

_MOST_AHEAD = 16
"""Batches scored in advance: each waits with its scores until it is its turn."""
_TINY = 1e-9

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class Carried(NamedTuple):
    """A kept sample that waits for an update: its epoch says how it is augmented.

    ``share`` is what it adds to the divisor of the update's loss.
    """

    sample: int
    epoch: int
    weight: float
    share: float = 1.0


class Trainer(Stateful):
    """Trains the learner, and remembers each sample's last loss.

    With the option ``pack`` an update has as many samples as a batch is drawn with: kept ones wait
    until there are so many.

    Args:
        run: What the run is made of.
        progress: Says what share of the run is done.

    Attributes:
        memory: What each sample's last update left behind.
        carried: Samples too few for an update: they come first in the next one.
        skipped: Updates that were dropped, their loss or gradient not being finite.
        skipped_in_a_row: How many of them came since the last update that was not.
    """

    state = ("memory", "carried", "skipped", "skipped_in_a_row")

    def __init__(self, run: RunParts, progress: Callable[[], float]) -> None:
        self._run, self._progress = run, progress
        options, learner = run.options, run.learner
        self._teacher = make_teacher(options, run.task.reference, learner.device)
        self.memory = SampleMemory(run.draws.n, learner.classes)
        self._pack = max(options.batch_size, learner.min_batch) if options.pack else 0
        self.carried: list[Carried] = []
        self.skipped = self.skipped_in_a_row = 0

    def train(
        self, batch: Indices, weights: Array, *, step: int, images: torch.Tensor | None
    ) -> tuple[Array, Array]:
        """Update on the kept samples; return the batch's losses (n,) and which were trained on.

        With ``pack`` those carried come first, then this batch's; the rest are carried.

        Args:
            batch: Sample indices (n,).
            weights: Loss weights (n,); 0 drops.
            step: The drawn batch's number.
            images: The batch's images (n, C, H, W) where they were loaded already.
        """
        losses, trained = np.zeros(len(batch), np.float32), np.zeros(len(batch), np.float32)
        kept = np.flatnonzero(weights > 0)
        if len(kept) == 0:
            return losses, trained
        full = len(kept) if self._run.options.normalizer == "kept" else len(batch)
        share = full / len(kept) if self._pack else 1.0
        fresh = self._samples(batch[kept], weights[kept], step, share)
        room = self._room(len(kept))
        if room == 0:
            self.carried += fresh
            return losses, trained
        now, normalizer = kept[:room], room * share if self._pack else full
        if images is not None:
            images = images[torch.as_tensor(now, device=images.device)]
        found = self.update(fresh[:room], step=step, normalizer=normalizer, images=images)
        self.carried = fresh[room:]
        if found is not None:
            losses[now], trained[now] = found, 1.0
        return losses, trained

    def _samples(
        self, indices: Indices, weights: Array, step: int, share: float = 1.0
    ) -> list[Carried]:
        epoch = self._run.draws.epoch(step)
        both = zip(indices.tolist(), weights.tolist(), strict=True)
        return [Carried(index, epoch, weight, share) for index, weight in both]

    def _room(self, kept: int) -> int:
        """Return how many of the kept samples are trained on now, with those carried."""
        together = kept + len(self.carried)
        if self._pack:
            return self._pack - len(self.carried) if together >= self._pack else 0
        return kept if together >= self._run.learner.min_batch else 0

    def draws_until_update(self, kept: int) -> int:
        """Return how many batches will be drawn until the update after this step's.

        With ``pack``, if the following batches keep as many as this one; 0 if this step makes no
        update, during which anything could be done.
        """
        if not self._pack or kept == 0:
            return 1
        left = kept + len(self.carried) - self._pack
        return min(_MOST_AHEAD, math.ceil((self._pack - left) / kept)) if left >= 0 else 0

    def flush(self, *, step: int) -> None:
        """Train on the samples that wait for a full update, where they are enough for any."""
        if self._pack and len(self.carried) >= self._run.learner.min_batch:
            self.update([], step=step, normalizer=0)

    def spend(self, left: float, *, step: int, seed: int) -> tuple[Indices, int]:
        """Train, unscored, on as many uniformly drawn samples as a budget's remainder pays for.

        Args:
            left: Operations that may still be spent; samples that wait are paid for first.
            step: Number of the next drawn batch.
            seed: Seed of the selection's noise.

        Returns:
            The samples (n,), and the number of the next drawn batch.
        """
        draws, learner = self._run.draws, self._run.learner
        count = math.floor(left / learner.train_flops + _TINY) - len(self.carried)
        closing = [np.empty(0, dtype=np.int64)]
        while count > 0:
            batch = draws.batch(step)
            take = min(count, len(batch))
            if take + len(self.carried) < learner.min_batch:
                break
            chosen = batch[uniform(take, step_noise(seed, step, batch))]
            fresh = self._samples(chosen, np.ones(take, np.float32), step)
            self.update(fresh, step=step, normalizer=take)
            closing.append(chosen)
            count -= take
            step += 1
        return np.concatenate(closing), step

    def update(
        self,
        fresh: list[Carried],
        *,
        step: int,
        normalizer: float,
        images: torch.Tensor | None = None,
    ) -> Array | None:
        """Train once, carried samples first; return the losses of ``fresh``, None if skipped."""
        run, learner, ledger = self._run, self._run.learner, self._run.ledger
        divisor = normalizer + sum(c.share for c in self.carried)
        every, self.carried = self.carried + fresh, []
        indices = np.array([c.sample for c in every], np.int64)
        part = run.group.share(len(every))
        with ledger.timed("load"):
            own = self._images(every, images, part)
        learner.set_progress(self._progress())
        weights = torch.tensor([c.weight for c in every], dtype=torch.float32).to(learner.device)
        objective = None
        if self._teacher:
            objective = functools.partial(self._teacher, indices[part])
        with ledger.timed("train"):
            losses = learner.update(
                own,
                run.loader.labels(indices[part]),
                weights[part],
                divisor,
                step=step,
                objective=objective,
                all_weights=weights,
            )
        ledger.charge("train", len(every) * learner.train_flops)
        self.skipped_in_a_row = 0 if losses is not None else self.skipped_in_a_row + 1
        if losses is None:
            self.skipped += 1
            return None
        losses = run.group.gather(losses, len(every))
        self.memory.remember(indices, losses, self._progress())
        return losses[len(every) - len(fresh) :]

    def _images(
        self, every: list[Carried], images: torch.Tensor | None, part: slice
    ) -> torch.Tensor:
        """Return the images of this process's part of all samples; of the last some are there."""
        absent = len(every) - (0 if images is None else len(images))
        loaded = [
            self._run.loader.images(np.array([c.sample for c in group], np.int64), epoch)
            for epoch, group in itertools.groupby(
                every[part.start : min(part.stop, absent)], key=lambda c: c.epoch
            )
        ]
        if images is not None and part.stop > absent:
            loaded.append(images[max(0, part.start - absent) : part.stop - absent])
        return torch.cat(loaded) if len(loaded) > 1 else loaded[0]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; of what is carried, no list tells its kind."""
        super().load_state_dict(state)
        self.carried = [Carried(*item) for item in self.carried]
