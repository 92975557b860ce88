"""Updates on the kept samples, and what each sample's last update left behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from envs.learner import Learner
from envs.loader import Loader
from envs.observation import LOSS_BOUND
from gstds.cost import Ledger

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

    Attributes:
        last_losses: Learner loss (n,) in nats when last trained on; log C before.
        last_trained: Progress (n,) when last trained on; -1 before.
        visits: How often each sample was trained on (n,).
        carried: Samples too few for an update, as (index, epoch, weight): in the next one.
        train_loss: Mean loss of the samples last trained on.
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
    ) -> None:
        self._learner, self._loader, self._ledger = learner, loader, ledger
        self._progress, self._normalizer = progress, normalizer
        unknown = math.log(learner.classes)
        self.last_losses = np.full(samples, unknown, dtype=np.float32)
        self.last_trained = np.full(samples, -1.0, dtype=np.float64)
        self.visits = np.zeros(samples, dtype=np.int64)
        self.carried: list[tuple[int, int, float]] = []
        self.train_loss = unknown

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
        losses[kept] = self.update(
            batch[kept], weights[kept], step=step, epoch=epoch, normalizer=normalizer, images=images
        )
        trained[kept] = 1.0
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
    ) -> Array:
        """Train once, carried samples first; return the losses of ``indices``."""
        carried, self.carried = self.carried, []
        with self._ledger.timed("load"):
            extra = [self._loader.images(np.array([i]), e) for i, e, _ in carried]
            own = self._loader.images(indices, epoch) if images is None else images
            every = np.concatenate([np.array([i for i, _, _ in carried], np.int64), indices])
            all_images = torch.cat([*extra, own]) if extra else own
        weight = np.concatenate([np.array([w for _, _, w in carried], np.float32), weights])
        self._learner.set_progress(self._progress())
        with self._ledger.timed("train"):
            losses = self._learner.update(
                all_images,
                self._loader.labels(every),
                torch.as_tensor(weight, device=self._learner.device),
                normalizer + len(carried),
                step=step,
            )
        self._ledger.charge("train", len(every) * self._learner.train_flops)
        self._remember(every, losses)
        return losses[len(carried) :]

    def _remember(self, indices: Indices, losses: Array) -> None:
        finite = np.clip(np.nan_to_num(losses, nan=LOSS_BOUND), 0.0, LOSS_BOUND)
        self.last_losses[indices] = finite
        self.last_trained[indices] = self._progress()
        np.add.at(self.visits, indices, 1)
        self.train_loss = float(np.mean(losses, dtype=np.float64))

    def state_dict(self) -> dict[str, Any]:
        """Return what every sample left behind, as arrays and JSON-able values."""
        return {
            "last_losses": self.last_losses.copy(),
            "last_trained": self.last_trained.copy(),
            "visits": self.visits.copy(),
            "carried": [list(item) for item in self.carried],
            "train_loss": self.train_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.last_losses = np.array(state["last_losses"], dtype=np.float32)
        self.last_trained = np.array(state["last_trained"], dtype=np.float64)
        self.visits = np.array(state["visits"], dtype=np.int64)
        self.carried = [(int(i), int(e), float(w)) for i, e, w in state["carried"]]
        self.train_loss = float(state["train_loss"])
