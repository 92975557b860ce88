"""Whether what was read is what was written: checksums of rows, looked at when a row is touched.

The manifest vouches for itself (SHA-256) and holds one CRC-32 per chunk of rows. In a store of
version 2 that number is taken over the CRC-32s of the chunk's rows, which stand in ``rows.crc32``:
a row is checked by reading that row and 4 bytes for each of its neighbors, not the whole chunk. In
a store of version 1 it is taken over the chunk's features, which are then read whole.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from gstds.store.format import CHECKS_DTYPE, CHECKS_NAME, StoreError, checksum, row_checksums

Indices = npt.NDArray[np.int64]


class Checks(Protocol):
    """Refuses rows that are not what was written."""

    def touch(self, index: Indices) -> None:
        """Check the rows (k,) that were not checked before.

        Raises:
            StoreError: If one is damaged.
        """

    def verify(self) -> None:
        """Check every row again.

        Raises:
            StoreError: If one is damaged.
        """


def open_checks(path: Path, manifest: Mapping[str, Any]) -> IO[bytes] | None:
    """Open the file of the rows' checksums; None for a store of version 1, which has none.

    Raises:
        StoreError: If it is missing or of another size.
    """
    if manifest["version"] == 1:
        return None
    try:
        handle = open(path / CHECKS_NAME, "rb")  # noqa: SIM115 - lives as long as the store
    except FileNotFoundError:
        raise StoreError(path, f"{CHECKS_NAME} is missing") from None
    try:
        _check_size(path, handle, manifest)
    except StoreError:
        handle.close()
        raise
    return handle


def make_checks(
    path: Path, manifest: Mapping[str, Any], values: npt.NDArray[Any], handle: IO[bytes] | None
) -> Checks:
    """Return what checks the rows (n, D) of a store, by the file that `open_checks` opened."""
    if handle is None:
        return _ChunkChecks(path, manifest, values)
    return _RowChecks(path, manifest, values, handle)


def _check_size(path: Path, handle: IO[bytes], manifest: Mapping[str, Any]) -> None:
    size, expected = os.fstat(handle.fileno()).st_size, manifest["rows"] * CHECKS_DTYPE.itemsize
    if size != expected:
        raise StoreError(path, f"size of {CHECKS_NAME} is {size} bytes, expected {expected}")


class _ChunkChecks:
    """Version 1: the first row that is touched has its whole chunk read."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], values: npt.NDArray[Any]) -> None:
        self._path, self._values = path, values
        self._chunk_rows = int(manifest["chunk_rows"])
        self._expected = manifest["checksums"]
        self._checked = np.zeros(len(self._expected), dtype=bool)

    def touch(self, index: Indices) -> None:
        chunks = index // self._chunk_rows
        if not self._checked[chunks].all():
            for chunk in np.unique(chunks[~self._checked[chunks]]):
                self._check(int(chunk))

    def verify(self) -> None:
        for chunk in range(len(self._checked)):
            self._check(chunk)

    def _check(self, chunk: int) -> None:
        start = chunk * self._chunk_rows
        if checksum(self._values[start : start + self._chunk_rows]) != self._expected[chunk]:
            raise StoreError(self._path, f"checksum of chunk {chunk} does not match")
        self._checked[chunk] = True


class _RowChecks:
    """Version 2: a row that is touched is read alone, and checked by a table that is checked."""

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any],
        values: npt.NDArray[Any],
        handle: IO[bytes],
    ) -> None:
        self._path, self._manifest, self._handle = path, manifest, handle
        self._chunk_rows = int(manifest["chunk_rows"])
        self._expected = manifest["checksums"]
        self._values = values
        self._row_bytes = values.shape[1] * values.itemsize
        self._bytes = memoryview(values.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        table = np.memmap(handle, CHECKS_DTYPE, mode="r", shape=(len(values),))
        self._table = table.view(np.ndarray)
        # The system gives memory for these only where they are written.
        self._checked = np.zeros(len(values), dtype=bool)
        self._checked_chunks = np.zeros(len(self._expected), dtype=bool)

    def touch(self, index: Indices) -> None:
        fresh = index[~self._checked[index]]
        if not len(fresh):
            return
        _check_size(self._path, self._handle, self._manifest)
        fresh = np.unique(fresh)
        chunks = np.unique(fresh // self._chunk_rows)
        for chunk in chunks[~self._checked_chunks[chunks]].tolist():
            self._check_table(chunk)
        for row, expected in zip(fresh.tolist(), self._table[fresh].tolist(), strict=True):
            start = row * self._row_bytes
            if zlib.crc32(self._bytes[start : start + self._row_bytes]) != expected:
                raise self._damaged(row)
        self._checked[fresh] = True

    def verify(self) -> None:
        _check_size(self._path, self._handle, self._manifest)
        for chunk in range(len(self._expected)):
            self._check_table(chunk)
            start = chunk * self._chunk_rows
            rows = slice(start, start + self._chunk_rows)
            wrong = row_checksums(self._values[rows]) != self._table[rows]
            if wrong.any():
                raise self._damaged(start + int(np.flatnonzero(wrong)[0]))

    def _check_table(self, chunk: int) -> None:
        start = chunk * self._chunk_rows
        if checksum(self._table[start : start + self._chunk_rows]) != self._expected[chunk]:
            raise StoreError(self._path, f"checksum of chunk {chunk} of {CHECKS_NAME} is wrong")
        self._checked_chunks[chunk] = True

    def _damaged(self, row: int) -> StoreError:
        chunk = row // self._chunk_rows
        return StoreError(self._path, f"checksum of chunk {chunk} does not match (row {row})")
