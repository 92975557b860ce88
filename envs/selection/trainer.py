"""Updates on the kept samples, and what each sample's last update left behind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gstds.common.process_group import Group
from gstds.common.state import Stateful
from gstds.envs.batches.loader import Loader
from gstds.envs.learner.learner import Learner, Objective
from gstds.envs.task.distillation import Teacher
from gstds.observation.cost import Ledger
from gstds.observation.memory import SampleMemory

__all__ = ["Trainer"]

_MOST_AHEAD = 16
"""Batches scored in advance: each waits with its scores until it is its turn."""

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

    Args:
        learner: The network under training.
        loader: Loads images.
        ledger: Is charged.
        samples: Number of training samples.
        progress: Says what share of the run is done.
        normalizer: The loss is divided by the number of samples ``kept`` or ``drawn``.
        teacher: What the learner is taught beside the labels, None for nothing.
        group: The processes that train together; None for this one alone.
        pack: Samples of every update: kept ones wait until there are so many; 0 trains on each
            batch's at once.

    Attributes:
        memory: What each sample's last update left behind.
        carried: Samples too few for an update: they come first in the next one.
        skipped: Updates that were dropped, their loss or gradient not being finite.
        skipped_in_a_row: How many of them came since the last update that was not.
    """

    state = ("memory", "carried", "skipped", "skipped_in_a_row")

    def __init__(
        self,
        learner: Learner,
        loader: Loader,
        ledger: Ledger,
        *,
        samples: int,
        progress: Callable[[], float],
        normalizer: str,
        teacher: Teacher | None = None,
        group: Group | None = None,
        pack: int = 0,
    ) -> None:
        self._group = group or Group()
        self._learner, self._loader, self._ledger = learner, loader, ledger
        self._progress, self._normalizer, self._teacher = progress, normalizer, teacher
        self.memory = SampleMemory(samples, learner.classes)
        self._pack = max(pack, learner.min_batch) if pack else 0
        self.carried: list[Carried] = []
        self.skipped = self.skipped_in_a_row = 0

    def train(
        self,
        batch: Indices,
        weights: Array,
        *,
        step: int,
        epoch: int,
        images: torch.Tensor | None,
    ) -> tuple[Array, Array]:
        """Update on the kept samples; return the batch's losses (n,) and which were trained on.

        With ``pack`` an update has as many samples as the batch was drawn with: those carried, then
        this batch's first; the rest are carried.

        Args:
            batch: Sample indices (n,).
            weights: Loss weights (n,); 0 drops.
            step: The drawn batch's number.
            epoch: Its epoch.
            images: The batch's images (n, C, H, W) where they were loaded already.
        """
        losses, trained = np.zeros(len(batch), np.float32), np.zeros(len(batch), np.float32)
        kept = np.flatnonzero(weights > 0)
        if len(kept) == 0:
            return losses, trained
        full = len(kept) if self._normalizer == "kept" else len(batch)
        now = kept[: self._room(len(kept))]
        later = kept[len(now) :]
        normalizer = full if not self._pack else len(now) * (full / len(kept))
        share = full / len(kept) if self._pack else 1.0
        waiting = [Carried(int(batch[i]), epoch, float(weights[i]), share) for i in later]
        if len(now) == 0:
            self.carried += waiting
            return losses, trained
        if images is not None:
            images = images[torch.as_tensor(now, device=images.device)]
        found = self.update(
            batch[now], weights[now], step=step, epoch=epoch, normalizer=normalizer, images=images
        )
        self.carried = waiting
        if found is not None:
            losses[now], trained[now] = found, 1.0
        return losses, trained

    def _room(self, kept: int) -> int:
        """Return how many of the kept samples are trained on now, with those carried."""
        together = kept + len(self.carried)
        if self._pack:
            return self._pack - len(self.carried) if together >= self._pack else 0
        return kept if together >= self._learner.min_batch else 0

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
        if self._pack and len(self.carried) >= self._learner.min_batch:
            nothing: Indices = np.empty(0, dtype=np.int64)
            self.update(nothing, np.empty(0, np.float32), step=step, epoch=0, normalizer=0)

    def update(
        self,
        indices: Indices,
        weights: Array,
        *,
        step: int,
        epoch: int,
        normalizer: float,
        images: torch.Tensor | None = None,
    ) -> Array | None:
        """Train once, carried samples first; return the losses of ``indices``, None if skipped."""
        carried, self.carried = self.carried, []
        every = np.concatenate([np.array([c.sample for c in carried], np.int64), indices])
        weight = np.concatenate([np.array([c.weight for c in carried], np.float32), weights])
        part = self._group.share(len(every))
        with self._ledger.timed("load"):
            own = self._images(carried, indices, epoch, images, part)
        self._learner.set_progress(self._progress())
        everyone = torch.as_tensor(weight, device=self._learner.device)
        with self._ledger.timed("train"):
            losses = self._learner.update(
                own,
                self._loader.labels(every[part]),
                everyone[part],
                normalizer + sum(c.share for c in carried),
                step=step,
                objective=self._objective(every[part]),
                all_weights=everyone,
            )
        self._ledger.charge("train", len(every) * self._learner.train_flops)
        self.skipped_in_a_row = 0 if losses is not None else self.skipped_in_a_row + 1
        if losses is None:
            self.skipped += 1
            return None
        losses = self._group.gather(losses, len(every))
        self.memory.remember(every, losses, self._progress())
        return losses[len(carried) :]

    def _images(
        self,
        carried: list[Carried],
        indices: Indices,
        epoch: int,
        images: torch.Tensor | None,
        part: slice,
    ) -> torch.Tensor:
        """Return the images of this process's part of the carried samples and the others."""
        extra = [
            self._loader.images(np.array([c.sample for c in group], dtype=np.int64), of_epoch)
            for of_epoch, group in itertools.groupby(carried[part], key=lambda c: c.epoch)
        ]
        rest = slice(max(0, part.start - len(carried)), max(0, part.stop - len(carried)))
        if len(extra) and rest.start == rest.stop:
            return torch.cat(extra)
        own = self._loader.images(indices[rest], epoch) if images is None else images[rest]
        return torch.cat([*extra, own]) if extra else own

    def _objective(self, indices: Indices) -> Objective | None:
        teacher = self._teacher
        if teacher is None:
            return None
        return lambda losses, logits: teacher.objective(losses, logits, indices)

    @property
    def counts(self) -> dict[str, int]:
        """How many samples are carried, and how many updates were skipped, for ``info``."""
        return {
            "carried": len(self.carried),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; of what is carried, no list tells its kind."""
        super().load_state_dict(state)
        self.carried = [Carried(*item) for item in self.carried]
