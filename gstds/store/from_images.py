"""A store of features and reference losses for training images of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_not_empty
from gstds.common.files import sha256
from gstds.store.feature_store import FeatureStore, build_store, open_losses, save_losses
from gstds.store.format import StoreError

LOSSES_NAME = "losses.safetensors"


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
        labels: Class (n,) of each, from 0; two classes at least, and two samples in each.
        reference: Frozen backbone, see `gstds.reference.networks.make_reference`.
        groups: Samples with one number are duplicates; None for none.
        device: Where to compute, as torch names it.

    Returns:
        The store; its folder holds the losses too.

    Raises:
        ValueError: If shapes do not fit, a label is out of range, a class has fewer than two
            samples, or the reference or the device is unknown; before anything is computed.
        StoreError: If a store is there and is damaged or made from other images.
        OSError: If the folder cannot be written.
    """
    import torch

    from gstds.reference.networks import make_reference
    from gstds.reference.probe import cross_fitted_losses

    pixels, classes, grouped = _checked(images, labels, groups)
    folder = Path(path)
    model = make_reference(reference, image_side=max(pixels.shape[2:]), device=device)
    store = build_store(
        folder,
        rows=len(pixels),
        dim=model.feature_dim,
        fingerprint=sha256(str(pixels.shape), np.ascontiguousarray(pixels).data),
        backbone=dict(model.identity),
        compute=lambda start, stop: model.features(torch.from_numpy(pixels[start:stop].copy())),
    )
    count = int(classes.max()) + 1
    made_from = {
        "num_classes": count,
        "labels": sha256(classes.tobytes(), grouped.tobytes()),
        "store": store.manifest["fingerprint"],
        "backbone": dict(model.identity),
    }
    try:
        open_losses(folder / LOSSES_NAME, expected=made_from)
    except StoreError:
        features = store.gather(np.arange(store.rows))
        result = cross_fitted_losses(features, classes, grouped, num_classes=count, device=device)
        save_losses(folder / LOSSES_NAME, result.losses, made_from)
    return store


def _checked(
    images: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return images, labels and groups (n,) with which the losses can be cross-fitted."""
    from gstds.reference.probe import FOLDS, stratified_folds, whole_numbers

    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be uint8 (n, C, H, W) with C 1 or 3, got {pixels.dtype} {pixels.shape}"
        )
    check_not_empty("images", pixels)
    n = len(pixels)
    classes = whole_numbers("labels", labels, n)
    grouped = whole_numbers("groups", np.arange(n) if groups is None else groups, n)
    if not n or classes.min() == classes.max():
        found = f"the class {classes[0]} alone" if n else "none"
        raise ValueError(f"labels must name at least 2 classes, got {found}")
    if classes.min() < 0:
        raise ValueError(f"labels must be classes from 0, got {classes.min()}")
    if classes.max() >= n:
        raise ValueError(
            f"labels must be below the number of samples, {n}, got {classes.max()}; number the "
            "classes from 0"
        )
    distinct = len(np.unique(grouped))
    if distinct < FOLDS:
        raise ValueError(
            f"images must be at least {FOLDS}, duplicates counted once, got {distinct}: their "
            "losses come from heads that were trained on the others"
        )
    count = int(classes.max()) + 1
    stratified_folds(classes, grouped, num_classes=count, folds=FOLDS, seed=0)
    return pixels, classes, grouped
