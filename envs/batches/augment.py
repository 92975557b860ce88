"""Random crop, flip and scaling of image batches, as tensor operations on the images' device.

What happens to a sample depends on (seed, epoch, its index) alone: not on the batch it is in, nor
on its place there. So a sample that two policies keep is the same to the last pixel for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from gstds.common.noise import keyed_bits

__all__ = ["augment", "normalize"]


def augment(
    images: torch.Tensor,
    sample_indices: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    pad: int,
    flip: bool,
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

    Raises:
        ValueError: If there is not one index for each image.
    """
    if len(sample_indices) != len(images):
        raise ValueError(
            f"sample_indices must hold one index for each of the {len(images)} images, "
            f"got {len(sample_indices)}"
        )
    if (pad == 0 and not flip) or len(images) == 0:
        return images
    down, right, mirror = _draw(sample_indices, seed, epoch, pad, flip, images.device)
    return _cut(images, down, right, mirror, pad)


def _draw(
    indices: NDArray[np.int64], seed: int, epoch: int, pad: int, flip: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    bits = keyed_bits(seed, epoch, indices=indices)
    span = np.uint64(2 * pad + 1)
    down = (bits & np.uint64(0xFFFFFFFF)) % span
    right = ((bits >> np.uint64(32)) & np.uint64(0x7FFFFFFF)) % span
    mirror = (bits >> np.uint64(63)) if flip else np.zeros_like(bits)
    draws = torch.from_numpy(np.stack([down, right, mirror]).astype(np.int64)).to(device)
    return draws[0], draws[1], draws[2].bool()


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


def normalize(
    images: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> torch.Tensor:
    """Scale pixels to [0, 1], then to mean 0 and deviation 1 by channel.

    Args:
        images: uint8 (n, C, H, W).
        mean: Mean (C,) of the pixels in [0, 1].
        std: Standard deviation (C,) of the pixels in [0, 1], above 0.
        dtype: Type of the answer.
        channels_last: Whether the answer lies in memory with its channels last.

    Returns:
        Floats (n, C, H, W).

    Raises:
        ValueError: If ``mean`` and ``std`` do not have one number for each channel.
    """
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"mean and std must have {channels} numbers, one for each channel, "
            f"got {len(mean)} and {len(std)}"
        )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    factor, offset = _scale_and_shift(tuple(mean), tuple(std), images.device)
    pixels = images.to(torch.float32, memory_format=layout)
    return pixels.mul_(factor).sub_(offset).to(dtype)


@lru_cache(maxsize=64)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what pixels are multiplied by and what is taken off, each (1, C, 1, 1)."""
    scale = [1.0 / (255.0 * s) for s in std]
    shift = [m / s for m, s in zip(mean, std, strict=True)]
    view = (1, len(std), 1, 1)
    with torch.inference_mode(False):  # kept for callers with gradients too
        factor = torch.tensor(scale, dtype=torch.float32, device=device).view(view)
        offset = torch.tensor(shift, dtype=torch.float32, device=device).view(view)
    return factor, offset
