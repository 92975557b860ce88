"""The reference's features of a data set's training images: which rows, in which store, by whom."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gstds.common.files import cache_root, sha256
from gstds.envs.data.datasets import Data
from gstds.reference.networks import Reference, make_reference
from gstds.store.compression import Compression, fit_basis, parse_compression, project
from gstds.store.feature_store import FeatureStore, build_store
from gstds.store.format import Compute

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
_BATCH = 256
_SAMPLE = 8192


@dataclass(frozen=True)
class Extractor:
    """From images to what the store holds: a frozen backbone, and what shortens its features."""

    reference: Reference
    compression: Compression = Compression()

    @property
    def identity(self) -> dict[str, Any]:
        """What the features were made by (JSON)."""
        return {**self.reference.identity, **self.compression.identity}

    @property
    def feature_dim(self) -> int:
        """How many features an image has in the store."""
        return self.compression.feature_dim(self.reference.feature_dim)

    def flops(self, images: int) -> float:
        """Return what the features of all images take, directions of a projection included."""
        dim, sample = self.reference.feature_dim, min(images, _SAMPLE)
        extra = self.reference.flops_per_image * sample
        fit = self.compression.fit_flops(dim, sample)
        each = self.reference.flops_per_image + self.compression.flops(dim)
        return each * images + (fit + extra if fit else 0.0)


def make_extractor(
    data: Data, name: str, compress: str | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """Return a reference by name for a data set's images, and a compression by name.

    Raises:
        ValueError: If a name is unknown, or the compression has more dimensions than the reference.
        ImportError: If a package or the user's module is missing.
        OSError: If a file is missing or a download fails.
    """
    compression = parse_compression(compress)
    reference = make_reference(name, image_side=max(data.image_shape[1:]), device=device)
    compression.feature_dim(reference.feature_dim)
    return Extractor(reference, compression)


def digest_of(*parts: Any) -> str:
    """Return 20 hexadecimal digits of arrays and JSON-able values, in their order."""
    raw = [p.tobytes() if isinstance(p, np.ndarray) else json.dumps(p).encode() for p in parts]
    return sha256(parts=(len(part).to_bytes(8, "little") + part for part in raw))[:20]


def reference_store_path(data: Data, reference: Extractor) -> tuple[Path, str]:
    """Return where the training features are cached, and the fingerprint of their images."""
    rows = np.unique(data.train.rows)
    fingerprint = digest_of(data.train.source.fingerprint, rows)
    key = digest_of(fingerprint, reference.identity)
    name = reference.reference.name.split(":")[0]
    return cache_root() / "features" / f"{name}-{key}", fingerprint


def find_basis(data: Data, extractor: Extractor) -> Array | None:
    """Return the directions (dim, d) that the features of a data set are projected to, if any.

    Principal ones are found from up to 8,192 images, evenly spaced: the same for every build.
    """
    reference, compression = extractor.reference, extractor.compression
    if compression.projection != "pca":
        return fit_basis(compression, reference.feature_dim)
    unique = np.unique(data.train.rows)
    spaced = np.unique(np.linspace(0, len(unique) - 1, min(len(unique), _SAMPLE)).astype(np.int64))
    sample = _raw_features(data, reference, unique[spaced])
    return fit_basis(compression, reference.feature_dim, sample)


def _raw_features(data: Data, reference: Reference, rows: Indices) -> Array:
    parts = [
        reference.features(data.train.source.gather(rows[at : at + _BATCH]))
        for at in range(0, len(rows), _BATCH)
    ]
    return np.concatenate([part.float().cpu().numpy() for part in parts])


def chunk_features(data: Data, extractor: Extractor, basis: Array | None = None) -> Compute:
    """Return what computes the features (stop - start, D) of the store's rows start to stop.

    The rows are the training images without their duplicates. Whoever computes them, in whatever
    order, gets the same numbers for the same rows.

    Args:
        data: The data set.
        extractor: Backbone and compression.
        basis: What `find_basis` found; None to find it when it is first needed.
    """
    unique = np.unique(data.train.rows)
    found = functools.cache(lambda: find_basis(data, extractor) if basis is None else basis)

    def compute(start: int, stop: int) -> Array:
        return project(_raw_features(data, extractor.reference, unique[start:stop]), found())

    return compute


def build_features(
    data: Data,
    extractor: Extractor,
    progress: Progress | None = None,
    *,
    compute: Compute | None = None,
) -> tuple[FeatureStore, Indices]:
    """Open the store of the training features, or build it, or go on with its build.

    Args:
        data: The data set.
        extractor: Backbone and compression.
        progress: Called with a phase, what is done, and the total.
        compute: Gives the features of rows start to stop; None for `chunk_features`, here.

    Returns:
        The store, and each training sample's row in it (n,).

    Raises:
        StoreError: If a store is there and is damaged.
        OSError: If the cache cannot be written.
    """
    path, fingerprint = reference_store_path(data, extractor)
    unique, rows = np.unique(data.train.rows, return_inverse=True)

    store = build_store(
        path,
        rows=len(unique),
        dim=extractor.feature_dim,
        fingerprint=fingerprint,
        backbone=extractor.identity,
        compute=compute or chunk_features(data, extractor),
        dtype=extractor.compression.dtype,
        progress=progress and functools.partial(progress, "reference features"),
    )
    return store, rows.astype(np.int64)
