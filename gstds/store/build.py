"""Building a feature store so that a kill at any moment costs one chunk and breaks nothing.

Rows go to ``features.npy`` chunk by chunk, their checksums to ``rows.crc32``; after each both are
synced, and then a line with the chunk's checksum is synced to ``journal.jsonl``. A later build
trusts only journal lines whose chunk still has that checksum, and goes on from there. The manifest
is written last, atomically.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import fsync_directory, write_json, write_text
from gstds.store.format import (
    CHECKS_DTYPE,
    CHECKS_NAME,
    DATA_NAME,
    DTYPES,
    MANIFEST_NAME,
    array_header,
    canonical,
    checksum,
    encode,
    make_manifest,
    row_checksums,
)

JOURNAL_NAME = "journal.jsonl"
LOCK_NAME = ".lock"

Compute = Callable[[int, int], Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuildPlan:
    """What is to be built: shape (rows, dim) and type, the chunks, the data and the backbone."""

    rows: int
    dim: int
    chunk_rows: int
    fingerprint: str
    backbone: dict[str, Any]
    dtype: str = "float16"

    @property
    def numbers(self) -> np.dtype[Any]:
        """The type of a stored number."""
        return DTYPES[self.dtype]

    @property
    def header(self) -> bytes:
        """How ``features.npy`` begins."""
        return array_header(self.rows, self.dim, self.numbers)

    @property
    def row_bytes(self) -> int:
        """How many bytes a stored row takes."""
        return self.dim * self.numbers.itemsize

    @property
    def line(self) -> str:
        """The journal's first line: only a build with an equal plan may be resumed."""
        return canonical({"plan": self.__dict__})

    @property
    def chunks(self) -> int:
        """How many chunks there are; the last may be short."""
        return -(-self.rows // self.chunk_rows)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk and the row after its last."""
        start = chunk * self.chunk_rows
        return start, min(start + self.chunk_rows, self.rows)


def discard(path: Path) -> None:
    """Remove a store's files, the manifest first, so that no half of it is ever accepted."""
    for name in (MANIFEST_NAME, JOURNAL_NAME, CHECKS_NAME, DATA_NAME):
        (path / name).unlink(missing_ok=True)
    fsync_directory(path)


def complete_build(
    path: Path, plan: BuildPlan, compute: Compute, progress: Progress | None = None
) -> None:
    """Write the chunks that are missing, then the manifest. The caller holds the lock.

    Raises:
        OSError: If the disk is full or a file cannot be written; it names the file.
        ValueError: If ``compute`` returns a wrong shape or something not finite.
    """
    for leftover in path.glob(f".{MANIFEST_NAME}.*.tmp"):
        leftover.unlink(missing_ok=True)
    with _naming(path / DATA_NAME):
        checksums = _resumable(path, plan)
        if not checksums:
            _start(path, plan)
        _write_chunks(path, plan, compute, progress, checksums)
        facts = {**plan.__dict__, "dtype": plan.numbers}
        write_json(path / MANIFEST_NAME, make_manifest(**facts, checksums=checksums))
        (path / JOURNAL_NAME).unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        mend = "free some space there, or set GSTDS_CACHE to another folder"
        reason = f"{os.strerror(error.errno)} (feature store; {mend})"
        raise OSError(error.errno, reason, str(path)) from error


def _resumable(path: Path, plan: BuildPlan) -> list[int]:
    """Return the checksums of the leading chunks that are recorded and whole."""
    recorded = _read_journal(path / JOURNAL_NAME, plan)
    whole: list[int] = []
    try:
        with open(path / DATA_NAME, "rb") as data, open(path / CHECKS_NAME, "r+b") as checks:
            if data.read(len(plan.header)) != plan.header:
                return []
            for chunk, expected in enumerate(recorded):
                start, stop = plan.bounds(chunk)
                content = np.frombuffer(data.read((stop - start) * plan.row_bytes), np.uint8)
                whole_bytes = len(content) // plan.row_bytes * plan.row_bytes  # it may be cut short
                sums = row_checksums(content[:whole_bytes].reshape(-1, plan.row_bytes))
                if checksum(sums) != expected:
                    break
                _write_at(checks, start * CHECKS_DTYPE.itemsize, sums)
                whole.append(expected)
    except FileNotFoundError:
        return []
    _write_journal(path / JOURNAL_NAME, plan, whole)
    return whole


def _read_journal(path: Path, plan: BuildPlan) -> list[int]:
    try:
        lines = path.read_bytes().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return []
    if lines[0] != plan.line:
        return []
    checksums: list[int] = []
    # The text after the last newline is a line that a kill cut short.
    for line in lines[1:-1]:
        try:
            chunk, value = json.loads(line)
        except (ValueError, TypeError):
            break
        if chunk != len(checksums) or chunk >= plan.chunks or not isinstance(value, int):
            break
        checksums.append(value)
    return checksums


def _write_journal(path: Path, plan: BuildPlan, checksums: list[int]) -> None:
    lines = [plan.line, *(json.dumps([k, value]) for k, value in enumerate(checksums))]
    write_text(path, "\n".join(lines) + "\n")


def _start(path: Path, plan: BuildPlan) -> None:
    parts = {
        DATA_NAME: (plan.header, len(plan.header) + plan.rows * plan.row_bytes),
        CHECKS_NAME: (b"", plan.rows * CHECKS_DTYPE.itemsize),
    }
    try:
        for name, (begin, size) in parts.items():
            with open(path / name, "wb") as handle:
                _reserve(handle.fileno(), size)
                handle.write(begin)
                _sync(handle)
    except OSError:
        for name in parts:
            (path / name).unlink(missing_ok=True)
        raise
    _write_journal(path / JOURNAL_NAME, plan, [])


def _reserve(descriptor: int, size: int) -> None:
    # A disk too small is better found now than after an hour of features.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _write_chunks(
    path: Path,
    plan: BuildPlan,
    compute: Compute,
    progress: Progress | None,
    checksums: list[int],
) -> None:
    with (
        open(path / DATA_NAME, "r+b") as data,
        open(path / CHECKS_NAME, "r+b") as checks,
        open(path / JOURNAL_NAME, "ab") as journal,
    ):
        for chunk in range(len(checksums), plan.chunks):
            start, stop = plan.bounds(chunk)
            if progress is not None:
                progress(start, plan.rows)
            rows = encode(_unit_rows(compute(start, stop), start, stop, plan.dim), plan.numbers)
            sums = row_checksums(rows)
            _write_at(data, len(plan.header) + start * plan.row_bytes, rows)
            _write_at(checks, start * CHECKS_DTYPE.itemsize, sums)
            checksums.append(checksum(sums))
            journal.write((json.dumps([chunk, checksums[-1]]) + "\n").encode())
            _sync(journal)
    if progress is not None:
        progress(plan.rows, plan.rows)


def _write_at(handle: Any, offset: int, values: npt.NDArray[Any]) -> None:
    handle.seek(offset)
    handle.write(values.tobytes())
    _sync(handle)


def _sync(handle: Any) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _unit_rows(values: Any, start: int, stop: int, dim: int) -> npt.NDArray[np.float32]:
    """Scale rows (n, dim) to unit length in float32; a zero row stays zero."""
    array = np.asarray(values)
    if array.shape != (stop - start, dim):
        raise ValueError(
            f"features of rows {start} to {stop - 1} must have the shape {(stop - start, dim)}, "
            f"got {array.shape}"
        )
    array = array.astype(np.float32)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        row = start + int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"features of row {row} are not finite; look at that image and its backbone"
        )
    # Scaling by the largest entry first keeps the squares of large features from overflowing.
    scale = np.abs(array).max(axis=1, keepdims=True)
    array = array / np.where(scale > 0, scale, 1)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return np.asarray(array / np.where(norms > 0, norms, 1), dtype=np.float32)
