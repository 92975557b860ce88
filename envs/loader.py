"""From sample indices to what the learner is fed: augmented, normalized images, and labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from envs.augment import augment, normalize
from envs.datasets import Data, Split

__all__ = ["Loader"]

Indices = npt.NDArray[np.int64]
_EVALUATION_BATCH = 512


class Loader:
    """Loads training samples and whole splits onto the learner's device.

    Args:
        data: The data set.
        device: Where the learner runs.
        seed: Seed of the augmentation.
    """

    def __init__(self, data: Data, device: torch.device, seed: int) -> None:
        self._data, self._device, self._seed = data, device, seed

    def images(self, indices: Indices, epoch: int) -> torch.Tensor:
        """Return the augmented images (n, C, H, W) of training samples: a function of the key."""
        data = self._data
        images = augment(
            data.train.gather(indices).to(self._device),
            indices,
            seed=self._seed,
            epoch=epoch,
            pad=data.pad,
            flip=data.flip,
        )
        return normalize(images, data.mean, data.std, channels_last=True)

    def labels(self, indices: Indices) -> torch.Tensor:
        """Return the classes (n,) of training samples, as the learner is told."""
        return torch.as_tensor(self._data.train.labels[indices], device=self._device)

    def batches(self, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield a split's images (n, C, H, W), not augmented, and labels (n,), in order."""
        data = self._data
        for start in range(0, len(split), _EVALUATION_BATCH):
            rows = np.arange(start, min(start + _EVALUATION_BATCH, len(split)))
            raw = split.gather(rows).to(self._device)
            images = normalize(raw, data.mean, data.std, channels_last=True)
            yield images, torch.as_tensor(split.labels[rows], device=self._device)
