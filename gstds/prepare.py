"""A store of features and reference losses for training images of one's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.store import FeatureStore, StoreError, build_store, open_losses, save_losses

__all__ = ["LOSSES_NAME", "prepare_store"]

LOSSES_NAME = "losses.safetensors"
_BATCH = 256


def prepare_store(
    path: str | Path,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    reference: str = "efficientnet-lite0",
    groups: npt.ArrayLike | None = None,
    device: str = "cpu",
) -> FeatureStore:
    """Compute features and cross-fitted reference losses once; open them where they are there.

    Args:
        path: The store's folder.
        images: Training images uint8 (n, C, H, W), C 1 or 3, in the order of their indices.
        labels: Class (n,) of each, from 0.
        reference: Frozen backbone, see `gstds.reference.make_reference`.
        groups: Samples with one number are duplicates; None for none.
        device: Where to compute.

    Returns:
        The store; its folder holds the losses too.

    Raises:
        ValueError: If shapes do not fit, a class has fewer than two samples, or the reference is
            unknown.
        StoreError: If a store is there and is damaged or made from other images.
        OSError: If the folder cannot be written.
    """
    from gstds.probe import cross_fitted_losses
    from gstds.reference import make_reference

    pixels, classes = _checked(images, labels)
    folder = Path(path)
    model = make_reference(reference, image_side=max(pixels.shape[2:]), device=device)
    store = build_store(
        folder,
        rows=len(pixels),
        dim=model.feature_dim,
        fingerprint=hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
        backbone=dict(model.identity),
        compute=lambda start, stop: _features(model, pixels[start:stop]),
    )
    groups = np.arange(len(classes)) if groups is None else np.asarray(groups)
    count = int(classes.max()) + 1
    made_from = {
        "num_classes": count,
        "labels": hashlib.sha256(classes.tobytes() + groups.tobytes()).hexdigest(),
        "store": store.manifest["fingerprint"],
        "backbone": dict(model.identity),
    }
    if not _have_losses(folder / LOSSES_NAME, made_from):
        features = store.gather(np.arange(store.rows))
        result = cross_fitted_losses(features, classes, groups, num_classes=count, device=device)
        save_losses(folder / LOSSES_NAME, result.losses, made_from)
    return store


def _have_losses(path: Path, made_from: dict[str, Any]) -> bool:
    try:
        open_losses(path, expected=made_from)
    except StoreError:
        return False
    return True


def _checked(
    images: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    pixels, classes = np.asarray(images), np.asarray(labels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be uint8 (n, C, H, W) with C 1 or 3, got {pixels.dtype} {pixels.shape}"
        )
    if classes.shape != pixels.shape[:1] or classes.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be whole numbers ({len(pixels)},), got {classes.dtype} {classes.shape}"
        )
    return pixels, classes.astype(np.int64)


def _features(model: Any, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import torch

    parts = [
        model.features(torch.from_numpy(pixels[at : at + _BATCH].copy())).cpu().numpy()
        for at in range(0, len(pixels), _BATCH)
    ]
    return np.concatenate(parts)
