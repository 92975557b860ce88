"""From sample indices to what the learner is fed: augmented, normalized images, and labels."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from gstds.envs.batches.augment import augment, normalize
from gstds.envs.data.datasets import Data
from gstds.envs.data.images import ArrayImages
from gstds.envs.data.splits import Split

__all__ = ["Loader"]

Indices = npt.NDArray[np.int64]
_EVALUATION_BATCH = 512
SHARE_OF_GPU = 0.25
"""Pixels that take less of a GPU's free memory are copied there once and stay."""

pixels_on_gpu: WeakKeyDictionary[ArrayImages, dict[torch.device, torch.Tensor]]
pixels_on_gpu = WeakKeyDictionary()
"""The copies, while their sources are in use."""


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
            self.pixels(data.train, indices),
            indices,
            seed=self._seed,
            epoch=epoch,
            pad=data.pad,
            flip=data.flip,
        )
        return normalize(images, data.mean, data.std, channels_last=True)

    def pixels(self, split: Split, indices: Indices) -> torch.Tensor:
        """Return images (n, C, H, W) of a split, uint8, on the device."""
        whole = _whole(split, self._device)
        if whole is None:
            return split.gather(indices).to(self._device)
        return whole.index_select(0, torch.as_tensor(split.rows[indices], device=self._device))

    def labels(self, indices: Indices) -> torch.Tensor:
        """Return the classes (n,) of training samples, as the learner is told."""
        return torch.as_tensor(self._data.train.labels[indices], device=self._device)

    def batches(self, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield a split's images (n, C, H, W), not augmented, and labels (n,), in order."""
        data = self._data
        for start in range(0, len(split), _EVALUATION_BATCH):
            rows = np.arange(start, min(start + _EVALUATION_BATCH, len(split)))
            images = normalize(self.pixels(split, rows), data.mean, data.std, channels_last=True)
            yield images, torch.as_tensor(split.labels[rows], device=self._device)


def _whole(split: Split, device: torch.device) -> torch.Tensor | None:
    """Return all pixels of a split's source where they lie on a GPU and have room there."""
    source = split.source
    if device.type != "cuda" or not isinstance(source, ArrayImages):
        return None
    copies = pixels_on_gpu.setdefault(source, {})
    if device not in copies:
        free, _ = torch.cuda.mem_get_info(device)
        if source.pixels.nbytes > SHARE_OF_GPU * free:
            return None
        copies[device] = source.pixels.to(device)
    return copies[device]
