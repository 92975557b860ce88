"""The reference's features of a data set's training images: which rows, in which store, by whom."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.datasets import Data
from gstds.files import cache_root
from gstds.reference import Reference
from gstds.store import FeatureStore, build_store
from gstds.store_build import Compute

__all__ = ["build_features", "chunk_features", "digest_of", "reference_store_path"]

Progress = Callable[[str, int, int], None]
_BATCH = 256


def digest_of(*parts: Any) -> str:
    """Return 20 hexadecimal digits of arrays and JSON-able values, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:20]


def reference_store_path(data: Data, reference: Reference) -> tuple[Path, str]:
    """Return where the training features are cached, and the fingerprint of their images."""
    rows = np.unique(data.train.rows)
    fingerprint = digest_of(data.train.source.fingerprint, rows)
    key = digest_of(fingerprint, reference.identity)
    return cache_root() / "features" / f"{reference.name.split(':')[0]}-{key}", fingerprint


def chunk_features(data: Data, reference: Reference) -> Compute:
    """Return what computes the features (stop - start, D) of the store's rows start to stop.

    The rows are the training images without their duplicates. Whoever computes them, in whatever
    order, gets the same numbers for the same rows.
    """
    unique = np.unique(data.train.rows)

    def compute(start: int, stop: int) -> npt.NDArray[np.float32]:
        parts = [
            reference.features(data.train.source.gather(unique[at : min(at + _BATCH, stop)]))
            for at in range(start, stop, _BATCH)
        ]
        return np.concatenate([part.float().cpu().numpy() for part in parts])

    return compute


def build_features(
    data: Data,
    reference: Reference,
    progress: Progress | None = None,
    *,
    compute: Compute | None = None,
) -> tuple[FeatureStore, npt.NDArray[np.int64]]:
    """Open the store of the training features, or build it, or go on with its build.

    Args:
        data: The data set.
        reference: The frozen backbone.
        progress: Called with a phase, what is done, and the total.
        compute: Gives the features of rows start to stop; None for `chunk_features`, here.

    Returns:
        The store, and each training sample's row in it (n,).

    Raises:
        StoreError: If a store is there and is damaged.
        OSError: If the cache cannot be written.
    """
    path, fingerprint = reference_store_path(data, reference)
    unique, rows = np.unique(data.train.rows, return_inverse=True)

    def report(done: int, total: int) -> None:
        if progress:
            progress("reference features", done, total)

    store = build_store(
        path,
        rows=len(unique),
        dim=reference.feature_dim,
        fingerprint=fingerprint,
        backbone=dict(reference.identity),
        compute=compute or chunk_features(data, reference),
        progress=report,
    )
    return store, rows.astype(np.int64)
