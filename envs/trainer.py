"""Updates on the kept samples, and what each sample's last update left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from envs.distillation import Teacher
from envs.learner import Learner, Objective
from envs.loader import Loader
from envs.parallel import Group
from gstds.cost import Ledger
from gstds.memory import SampleMemory

__all__ = ["Trainer"]

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class Trainer:
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

    Attributes:
        memory: What each sample's last update left behind.
        carried: Samples too few for an update, as (index, epoch, weight): in the next one.
        skipped: Updates that were dropped, their loss or gradient not being finite.
        skipped_in_a_row: How many of them came since the last update that was not.
    """

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
    ) -> None:
        self._group = group or Group()
        self._learner, self._loader, self._ledger = learner, loader, ledger
        self._progress, self._normalizer, self._teacher = progress, normalizer, teacher
        self.memory = SampleMemory(samples, learner.classes)
        self.carried: list[tuple[int, int, float]] = []
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

        Args:
            batch: Sample indices (n,).
            weights: Loss weights (n,); 0 drops.
            step: The drawn batch's number.
            epoch: Its epoch.
            images: The batch's images (n, C, H, W) where they were loaded already.
        """
        losses, trained = np.zeros(len(batch), np.float32), np.zeros(len(batch), np.float32)
        kept = np.flatnonzero(weights > 0)
        if len(kept) == 0 or len(kept) + len(self.carried) < self._learner.min_batch:
            self.carried += [(int(batch[i]), epoch, float(weights[i])) for i in kept]
            return losses, trained
        normalizer = len(kept) if self._normalizer == "kept" else len(batch)
        if images is not None:
            images = images[torch.as_tensor(kept, device=images.device)]
        found = self.update(
            batch[kept], weights[kept], step=step, epoch=epoch, normalizer=normalizer, images=images
        )
        if found is not None:
            losses[kept], trained[kept] = found, 1.0
        return losses, trained

    def update(
        self,
        indices: Indices,
        weights: Array,
        *,
        step: int,
        epoch: int,
        normalizer: int,
        images: torch.Tensor | None = None,
    ) -> Array | None:
        """Train once, carried samples first; return the losses of ``indices``, None if skipped."""
        carried, self.carried = self.carried, []
        every = np.concatenate([np.array([i for i, _, _ in carried], np.int64), indices])
        weight = np.concatenate([np.array([w for _, _, w in carried], np.float32), weights])
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
                normalizer + len(carried),
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
        carried: list[tuple[int, int, float]],
        indices: Indices,
        epoch: int,
        images: torch.Tensor | None,
        part: slice,
    ) -> torch.Tensor:
        """Return the images of this process's part of the carried samples and the others."""
        extra = [self._loader.images(np.array([i]), e) for i, e, _ in carried[part]]
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

    def state_dict(self) -> dict[str, Any]:
        """Return what every sample left behind, as arrays and JSON-able values."""
        return self.memory.state_dict() | {
            "carried": [list(item) for item in self.carried],
            "skipped": [self.skipped, self.skipped_in_a_row],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.memory.load_state_dict(state)
        self.carried = [(int(i), int(e), float(w)) for i, e, w in state["carried"]]
        self.skipped, self.skipped_in_a_row = (int(count) for count in state["skipped"])
