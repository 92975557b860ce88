"""From sample indices to what the learner is fed: augmented, normalized images, and labels.

Images are cropped, flipped and scaled by tensor operations on their device. What happens to a
sample depends on (seed, epoch, its index) alone: not on the batch it is in, nor on its place there.
So a sample that two policies keep is the same to the last pixel for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from gstds.common.noise import keyed_bits
from gstds.envs.data.datasets import Data
from gstds.envs.data.images import ArrayImages
from gstds.envs.data.splits import Split

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
        pixels, seed = self.pixels(data.train, indices), self._seed
        images = augment(pixels, indices, seed=seed, epoch=epoch, pad=data.pad, flip=data.flip)
        return normalize(images, data.mean, data.std)

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
            images = normalize(self.pixels(split, rows), data.mean, data.std)
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


def augment(
    images: torch.Tensor, sample_indices: Indices, *, seed: int, epoch: int, pad: int, flip: bool
) -> torch.Tensor:
    """Cut a random window out of each image padded with black, and mirror half of them.

    Args:
        images: uint8 (n, C, H, W).
        sample_indices: Index (n,) of each image's sample in the data set.
        seed: Seed of the augmentation's stream.
        epoch: The epoch.
        pad: Pixels of padding on each side; the window moves by up to this much. 0 is no crop.
        flip: Whether an image is mirrored left to right with probability one half.

    Returns:
        uint8 (n, C, H, W); ``images`` itself if there is nothing to do.
    """
    if (pad == 0 and not flip) or len(images) == 0:
        return images
    bits = keyed_bits(seed, epoch, indices=sample_indices)
    span = np.uint64(2 * pad + 1)
    down = (bits & np.uint64(0xFFFFFFFF)) % span
    right = ((bits >> np.uint64(32)) & np.uint64(0x7FFFFFFF)) % span
    mirror = (bits >> np.uint64(63)) if flip else np.zeros_like(bits)
    draws = torch.from_numpy(np.stack([down, right, mirror]).astype(np.int64)).to(images.device)
    return _cut(images, draws[0], draws[1], draws[2].bool(), pad)


def _cut(
    images: torch.Tensor, down: torch.Tensor, right: torch.Tensor, mirror: torch.Tensor, pad: int
) -> torch.Tensor:
    n, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirror[:, None], width - 1 - columns, columns) + right[:, None]
    rows = torch.arange(height, device=images.device) + down[:, None]
    places = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).view(n, 1, -1)
    flat = padded.view(n, channels, -1).gather(2, places.expand(n, channels, height * width))
    return flat.view(n, channels, height, width)


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Scale pixels to [0, 1], then to mean 0 and deviation 1 by channel.

    Args:
        images: uint8 (n, C, H, W).
        mean: Mean (C,) of the pixels in [0, 1].
        std: Standard deviation (C,) of the pixels in [0, 1], above 0.

    Returns:
        float32 (n, C, H, W), channels last in memory, as convolutions take them fastest.
    """
    factor, offset = scale_and_shift(tuple(mean), tuple(std), images.device)
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    return pixels.mul_(factor).sub_(offset)


@lru_cache(maxsize=64)
def scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> torch.Tensor:
    """Return what pixels are multiplied by and what is taken off (2, 1, C, 1, 1)."""
    both = [[1.0 / (255.0 * s) for s in std], [m / s for m, s in zip(mean, std, strict=True)]]
    with torch.inference_mode(False):  # kept for callers with gradients too
        return torch.tensor(both, dtype=torch.float32, device=device).view(2, 1, -1, 1, 1)
