"""Building a feature store so that a kill at any moment costs one chunk and breaks nothing.

Rows go to ``features.npy`` chunk by chunk, their checksums to ``rows.crc32``; after each both are
synced, and then ``journal.jsonl`` gets a line with the chunk's checksum. A later build trusts only
journal lines whose chunk still has that checksum, and goes on from there. The manifest is written
last. It and the journal are written atomically.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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
    for leftover in path.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    try:
        checksums = _write_chunks(path, plan, compute, progress or (lambda done, rows: None))
        facts = {**plan.__dict__, "dtype": plan.numbers}
        write_json(path / MANIFEST_NAME, make_manifest(**facts, checksums=checksums))
        (path / JOURNAL_NAME).unlink(missing_ok=True)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        mend = "free some space there, or set GSTDS_CACHE to another folder"
        reason = f"{os.strerror(error.errno)} (feature store; {mend})"
        raise OSError(error.errno, reason, str(path / DATA_NAME)) from error


def _write_chunks(path: Path, plan: BuildPlan, compute: Compute, progress: Progress) -> list[int]:
    """Keep the leading chunks that are recorded and whole, write the others; return checksums."""
    recorded = _read_journal(path, plan)
    _make_room(path, plan, "r+b" if recorded else "wb")
    checksums: list[int] = []
    with open(path / DATA_NAME, "r+b") as data, open(path / CHECKS_NAME, "r+b") as checks:
        for chunk, start in enumerate(range(0, plan.rows, plan.chunk_rows)):
            stop = min(start + plan.chunk_rows, plan.rows)
            place = len(plan.header) + start * plan.row_bytes
            data.seek(place)
            if chunk < len(recorded):
                content = data.read((stop - start) * plan.row_bytes)
                sums = row_checksums(np.frombuffer(content, np.uint8).reshape(stop - start, -1))
                if checksum(sums) != recorded[chunk]:
                    recorded = []
            if chunk >= len(recorded):
                progress(start, plan.rows)
                rows = encode(_unit_rows(compute(start, stop), start, stop, plan.dim), plan.numbers)
                _write_at(data, place, rows.tobytes())
                sums = row_checksums(rows)
            _write_at(checks, start * CHECKS_DTYPE.itemsize, sums.tobytes())
            checksums.append(checksum(sums))
            if chunk >= len(recorded):
                lines = [plan.line, *(json.dumps([k, one]) for k, one in enumerate(checksums))]
                write_text(path / JOURNAL_NAME, "\n".join(lines) + "\n")
    progress(plan.rows, plan.rows)
    return checksums


def _read_journal(path: Path, plan: BuildPlan) -> list[int]:
    try:
        lines = (path / JOURNAL_NAME).read_bytes().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return []
    there = (path / DATA_NAME).exists() and (path / CHECKS_NAME).exists()
    if lines[0] != plan.line or not there:
        return []
    checksums: list[int] = []
    for line in lines[1:]:
        try:
            chunk, value = json.loads(line)
        except (ValueError, TypeError):
            break
        if chunk != len(checksums) or not isinstance(value, int):
            break
        checksums.append(value)
    return checksums


def _make_room(path: Path, plan: BuildPlan, mode: str) -> None:
    """Give both files their sizes: a disk too small is better found now than after an hour."""
    parts = {
        DATA_NAME: (plan.header, len(plan.header) + plan.rows * plan.row_bytes),
        CHECKS_NAME: (b"", plan.rows * CHECKS_DTYPE.itemsize),
    }
    try:
        for name, (begin, size) in parts.items():
            with open(path / name, mode) as handle:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle.fileno(), 0, size)
                os.truncate(handle.fileno(), size)
                _write_at(handle, 0, begin)
    except OSError:
        if mode == "wb":
            for name in parts:
                (path / name).unlink(missing_ok=True)
        raise


def _write_at(handle: IO[Any], offset: int, content: bytes) -> None:
    handle.seek(offset)
    handle.write(content)
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
