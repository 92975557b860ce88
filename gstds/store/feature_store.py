"""The reference store: features of every training image, computed once and read by memory map.

Features are unit rows in float16 (a rounding of about 5e-4 of each entry), or in int8, see
`gstds.store.encoding`. Opening reads the manifest, sizes and headers: no byte of features. Nothing
is trusted unread: each row is checked by its checksum when it is first touched, and everything by
`FeatureStore.verify`.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_integer
from gstds.common.files import locked
from gstds.store.build import LOCK_NAME, BuildPlan, Compute, Progress, complete_build, discard
from gstds.store.encoding import decode
from gstds.store.format import (
    DATA_NAME,
    DTYPES,
    MANIFEST_NAME,
    StoreError,
    array_header,
    canonical,
    check_matches,
    read_manifest,
)
from gstds.store.losses import open_losses as open_losses
from gstds.store.losses import save_losses as save_losses
from gstds.store.row_checks import make_checks, open_checks


class FeatureStore:
    """A whole store, opened for reading by `FeatureStore.open`.

    It can be pickled and copied, as by the workers of a data loader: every copy opens the folder.

    Attributes:
        path: The store's folder.
        manifest: Shapes, backbone, fingerprint and checksums, as they stand in the manifest.
    """

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        handle: IO[bytes],
        checks: IO[bytes] | None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._handle = handle
        # Closed with the store, also where nobody closes that: a file left open is a warning.
        self._closing = weakref.finalize(self, _close, handle, checks)
        self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        # Else the system reads on ahead of every row: 128 kB where one or two are wanted.
        self._advise("MADV_RANDOM")
        dtype = np.dtype(manifest["dtype"])
        offset = len(array_header(self.rows, self.dim, dtype))
        # A plain array: a memmap's own indexing costs more than the reading.
        values = np.frombuffer(self._map, dtype, self.rows * self.dim, offset)
        self._values = values.reshape(self.rows, self.dim)
        self._checks = make_checks(path, manifest, self._values, checks)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: str | None = None,
        backbone: Mapping[str, Any] | None = None,
    ) -> FeatureStore:
        """Open a store after checking its manifest, its size and its header.

        Args:
            path: The store's folder.
            fingerprint: The data's fingerprint, if the store must have been made from that data.
            backbone: The reference's identity, if it must have been made by that reference.

        Raises:
            StoreError: If the store is missing, unfinished, damaged, or made from something else.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        check_matches(folder, manifest, fingerprint=fingerprint, backbone=backbone)
        handle = _open_data(folder, manifest)
        try:
            checks = open_checks(folder, manifest)
        except StoreError:
            handle.close()
            raise
        return cls(folder, manifest, handle, checks)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by path: the copy opens the files for itself."""
        return _reopen, (str(self.path.absolute()), self.manifest["sha256"])

    def close(self) -> None:
        """Close the store's files; gathering afterwards is a ValueError."""
        self._closing()

    @property
    def rows(self) -> int:
        """How many samples the store holds."""
        return int(self.manifest["rows"])

    @property
    def dim(self) -> int:
        """How many features a sample has."""
        return int(self.manifest["dim"])

    def gather(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the features of some samples.

        Args:
            rows: Sample indices (k,), in any order, repeats allowed.

        Returns:
            Unit rows (k, D), a fresh array.

        Raises:
            TypeError: If the indices are not whole numbers.
            IndexError: If one is outside the store.
            StoreError: If a row that is touched for the first time is damaged.
        """
        index = self._indices(rows)
        self._check_size()
        self._checks.touch(index)
        return decode(self._values.take(index, axis=0))

    def verify(self) -> None:
        """Read the whole store and compare every row with its checksum.

        Raises:
            StoreError: If a row is damaged; the message names the first.
        """
        self._check_size()
        self._advise("MADV_SEQUENTIAL")
        try:
            self._checks.verify()
        finally:
            self._advise("MADV_RANDOM")

    def _advise(self, name: str) -> None:
        advice = getattr(mmap, name, None)
        if advice is not None:
            self._map.madvise(advice)

    def _indices(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        index = np.asarray(rows)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise TypeError(
                f"rows must be whole numbers (k,), got {index.dtype} of shape {index.shape}"
            )
        if index.size and (index.min() < 0 or index.max() >= self.rows):
            raise IndexError(
                f"rows must lie in [0, {self.rows - 1}], got {index.min()} to {index.max()} "
                f"(store {self.path})"
            )
        return index.astype(np.int64)

    def _check_size(self) -> None:
        # Reading a mapped page that a truncation took away would kill the process.
        size = os.fstat(self._handle.fileno()).st_size
        if size != self.manifest["bytes"]:
            expected = self.manifest["bytes"]
            raise StoreError(self.path, f"size of {DATA_NAME} is {size} bytes, expected {expected}")


def _reopen(path: str, digest: str) -> FeatureStore:
    """Open a store of which another process, or another object, holds the digest.

    Raises:
        StoreError: If it is missing or damaged, or was made anew since.
    """
    store = FeatureStore.open(path)
    if store.manifest["sha256"] != digest:
        store.close()
        raise StoreError(path, "it was made anew since this copy of it was begun", "open it again")
    return store


def _close(*handles: IO[bytes] | None) -> None:
    for handle in handles:
        if handle is not None:
            handle.close()


def _open_data(path: Path, manifest: Mapping[str, Any]) -> IO[bytes]:
    try:
        handle = open(path / DATA_NAME, "rb")  # noqa: SIM115 - lives as long as the store
    except FileNotFoundError:
        raise StoreError(path, f"{DATA_NAME} is missing") from None
    header = array_header(manifest["rows"], manifest["dim"], np.dtype(manifest["dtype"]))
    problem = None
    size = os.fstat(handle.fileno()).st_size
    if size != manifest["bytes"]:
        problem = f"size of {DATA_NAME} is {size} bytes, expected {manifest['bytes']}"
    elif handle.read(len(header)) != header:
        problem = f"header of {DATA_NAME} does not match"
    if problem is not None:
        handle.close()
        raise StoreError(path, problem)
    return handle


def build_store(
    path: str | Path,
    *,
    rows: int,
    dim: int,
    fingerprint: str,
    backbone: Mapping[str, Any],
    compute: Compute,
    dtype: str = "float16",
    chunk_rows: int = 1024,
    progress: Progress | None = None,
    rebuild: bool = False,
) -> FeatureStore:
    """Build a store, resume one whose build was killed, or open the one that is there.

    Args:
        path: The store's folder; made if missing.
        rows: How many samples there are.
        dim: How many features a sample has.
        fingerprint: Identifies the data, order included.
        backbone: The reference's identity (JSON).
        compute: ``compute(start, stop)`` returns the features (stop - start, dim) of those rows;
            they need not be normalized.
        dtype: What a stored number is: ``float16`` or ``int8``.
        chunk_rows: Rows per call, checksum and journal entry.
        progress: Called as ``progress(rows done, rows)`` before each chunk and at the end.
        rebuild: Throw away what is there first.

    Raises:
        StoreError: If a finished store is there and is damaged or made from something else.
        OSError: If the folder is not writable or the disk is full; nothing that a later open would
            accept is left.
        ValueError: If an argument is wrong or ``compute`` returns a wrong shape or a number that is
            not finite.
    """
    folder = Path(path)
    plan = BuildPlan(
        rows=check_integer("rows", rows, low=1),
        dim=check_integer("dim", dim, low=1),
        chunk_rows=check_integer("chunk_rows", chunk_rows, low=1),
        fingerprint=str(fingerprint),
        backbone=dict(backbone),
        dtype=check_choice("dtype", dtype, DTYPES),
    )
    canonical(plan.backbone)
    with locked(folder / LOCK_NAME):
        if rebuild:
            discard(folder)
        if not (folder / MANIFEST_NAME).exists():
            complete_build(folder, plan, compute, progress)
    store = FeatureStore.open(folder, fingerprint=plan.fingerprint, backbone=plan.backbone)
    check_matches(folder, store.manifest, shape=(plan.rows, plan.dim), dtype=plan.numbers)
    return store
