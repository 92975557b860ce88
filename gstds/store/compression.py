"""Shorter features: projected to fewer dimensions, stored in one byte a number, or both.

The spectral score looks at cosines alone, and both keep these: a projection to principal directions
(uncentered, so that inner products, not variances, are kept best) or to random ones (Johnson and
Lindenstrauss, 1984), and rounding to int8 (`gstds.store.format.encode`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
_FORM = re.compile(r"(?:(pca|random)-([1-9][0-9]{0,5})(-int8)?)|int8")
_SEED = 20
_KNOWN = "int8, pca-DIM, random-DIM, pca-DIM-int8 or random-DIM-int8, such as pca-128-int8"


@dataclass(frozen=True)
class Compression:
    """How features are shortened.

    Attributes:
        projection: ``pca``, ``random``, or None to keep all dimensions.
        dim: Dimensions after the projection; None without one.
        dtype: What a stored number is: ``float16`` or ``int8``.
    """

    projection: str | None = None
    dim: int | None = None
    dtype: str = "float16"

    @property
    def identity(self) -> dict[str, Any]:
        """What it adds to the identity of the features (JSON); nothing if it does nothing."""
        return {} if self == Compression() else {"compression": dict(vars(self))}

    def feature_dim(self, dim: int) -> int:
        """Return how many features are left of ``dim``.

        Raises:
            ValueError: If the projection has more.
        """
        if self.dim is not None and self.dim > dim:
            there = f"than the reference's {dim} features; name fewer"
            raise ValueError(f"compress: {self.projection}-{self.dim} has more dimensions {there}")
        return self.dim or dim

    def flops(self, dim: int) -> float:
        """Return what projecting one image's ``dim`` features takes."""
        return 2.0 * dim * self.dim if self.dim else 0.0

    def fit_flops(self, dim: int, samples: int) -> float:
        """Return what finding the directions from some samples takes, their features aside."""
        return 2.0 * samples * dim**2 + 9.0 * dim**3 if self.projection == "pca" else 0.0


def parse_compression(text: str | None) -> Compression:
    """Return a compression by name: ``int8``, ``pca-128``, ``random-128-int8``; None for none.

    Raises:
        TypeError: If it is no text.
        ValueError: If it is none of these.
    """
    if text is None:
        return Compression()
    if not isinstance(text, str):
        raise TypeError(f"compress must be a name, got {text!r}")
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"compress must be {_KNOWN}, got {text!r}")
    dtype = "int8" if text.endswith("int8") else "float16"
    return Compression(found[1], int(found[2]) if found[2] else None, dtype)


def fit_basis(compression: Compression, dim: int, sample: Array | None = None) -> Array | None:
    """Return the directions (dim, d) that features are projected to; None without a projection.

    Args:
        compression: Says which.
        dim: Features before the projection.
        sample: Features (n, dim) to find principal directions from; random ones need none.

    Raises:
        ValueError: If principal directions are wanted and the sample is smaller than d.
    """
    count = compression.feature_dim(dim)
    if compression.projection is None:
        return None
    if compression.projection == "random":
        values = np.random.default_rng(_SEED).standard_normal((dim, count))
        return np.asarray(values / np.sqrt(count), dtype=np.float32)
    if sample is None or len(sample) < count:
        found = 0 if sample is None else len(sample)
        what = f"pca-{count} needs at least {count} images, got {found}"
        raise ValueError(f"compress: {what}; use random-{count}")
    rows = sample.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1)
    directions = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :count]
    # An eigenvector's sign is anybody's choice: the largest entry is made positive.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], 0)
    return np.asarray(directions * np.sign(largest), dtype=np.float32)


def project(features: Array, basis: Array | None) -> Array:
    """Return features (n, dim) in the directions (dim, d) of a basis; as they are for None."""
    return features if basis is None else features @ basis
