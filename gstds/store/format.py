"""What a feature store looks like on disk, how it gets there, and what tells a damaged one.

A store is a folder: ``features.npy`` (rows, dim), little-endian float16 or int8; ``rows.crc32``, a
CRC-32 per row; and ``manifest.json``, which is written last and only then makes the folder a store.
The manifest holds the shapes, the backbone's identity, the data's fingerprint, a CRC-32 per chunk
of ``rows.crc32``, and a SHA-256 of itself. Stores of version 1 are refused.

A store is built so that a kill at any moment costs one chunk and breaks nothing. Rows and their
checksums are written chunk by chunk; after each both are synced, and then ``journal.jsonl`` gets a
line with the chunk's checksum. A later build trusts only journal lines whose chunk still has that
checksum, and goes on from there. The manifest and the journal are written atomically.
"""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gstds.common.checksummed_json import read_json
from gstds.common.files import fsync_directory, sha256, write_json, write_text

VERSION = 2
DATA_NAME = "features.npy"
CHECKS_NAME = "rows.crc32"
MANIFEST_NAME = "manifest.json"
JOURNAL_NAME = "journal.jsonl"
LOCK_NAME = ".lock"
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "int8": np.dtype("|i1")}
CHECKS_DTYPE = np.dtype("<u4")
Compute = Callable[[int, int], Any]
Progress = Callable[[int, int], None]
_STEPS = 127.0
_MEND = (
    "delete it and call gstds.prepare_store again, or, if the command line made it, build it anew "
    "with `gstds features --rebuild`"
)

_RUN = "run `gstds features`, or gstds.prepare_store for images of your own, to {} it"


class StoreError(ValueError):
    """A store, or a file of losses, is missing, damaged, or made from something else.

    Args:
        path: The store.
        problem: What does not match.
        mend: What to do about it.
    """

    def __init__(self, path: str | Path, problem: str, mend: str = _MEND) -> None:
        super().__init__(f"store {path}: {problem}; {mend}")
        self.path = Path(path)


def canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values, whatever the order of their keys.

    Raises:
        ValueError: If a number is not finite.
        TypeError: If a value is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest, its own entry ``sha256`` left out."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return sha256(canonical(body))


def checksum(data: npt.NDArray[Any]) -> int:
    """Return the CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(data).view(np.uint8).reshape(-1).data)


def row_checksums(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 (n,) of each row's bytes."""
    values = np.ascontiguousarray(rows)
    width = values.shape[1] * values.itemsize
    data = memoryview(values.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
    sums = [zlib.crc32(data[at : at + width]) for at in range(0, len(data), width)]
    return np.array(sums, dtype=CHECKS_DTYPE)


def array_header(rows: int, dim: int, dtype: np.dtype[Any] = DTYPES["float16"]) -> bytes:
    """Return the header of the ``.npy`` file that holds the features (rows, dim)."""
    buffer = io.BytesIO()
    header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def make_manifest(
    *, rows: int, dim: int, dtype: np.dtype[Any], checksums: list[int], **made_from: Any
) -> dict[str, Any]:
    """Return a store's manifest; nothing in it depends on when or in how many goes it was built.

    Args:
        rows: How many samples.
        dim: How many features of each.
        dtype: What a stored number is.
        checksums: Of each chunk.
        **made_from: ``chunk_rows``, ``fingerprint`` and ``backbone``.
    """
    size = len(array_header(rows, dim, dtype)) + rows * dim * dtype.itemsize
    shape = {"rows": rows, "dim": dim, "dtype": dtype.str, "bytes": size}
    manifest = {"version": VERSION, **shape, **made_from, "checksums": checksums}
    return {**manifest, "sha256": digest(manifest)}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a store's manifest.

    Raises:
        StoreError: If there is none, or it is damaged or of another version.
    """
    try:
        manifest = read_json(path / MANIFEST_NAME)
    except (FileNotFoundError, NotADirectoryError):
        begun = (path / DATA_NAME).exists()
        problem = "its build was not finished" if begun else "there is no store"
        raise StoreError(path, problem, _RUN.format("resume" if begun else "build")) from None
    except ValueError:
        raise StoreError(path, f"{MANIFEST_NAME} is damaged (not JSON)") from None
    try:
        whole = isinstance(manifest, dict) and manifest.get("sha256") == digest(manifest)
    except ValueError:  # a number that is not finite
        whole = False
    if not whole:
        raise StoreError(path, f"{MANIFEST_NAME} is damaged (checksum of the manifest)")
    version = manifest.get("version")
    if version != VERSION:
        raise StoreError(path, f"version {version!r}, this release reads version {VERSION}")
    return dict(manifest)


def check_matches(path: Path, facts: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse what was made from other data, by another backbone or in another shape.

    Args:
        path: The store or file.
        facts: What it was made from, by name.
        wanted: What it is to have been made from; None for whatever it is.

    Raises:
        StoreError: The message names what differs, and both values.
    """
    for name, value in wanted.items():
        found = facts.get(name)
        if value is None or (name in facts and canonical(found) == canonical(value)):
            continue
        if isinstance(found, dict):
            keys = [k for k in sorted({*found, *value}) if found.get(k) != value.get(k)]
            found, value = ({k: one[k] for k in keys if k in one} for one in (found, value))
        raise StoreError(path, f"{name} is {found!r}, expected {value!r}")


def encode(rows: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return unit rows (n, D) as they are stored; a zero row stays zero.

    An int8 row keeps its direction alone: the row divided by its largest entry, times 127, rounded.
    Reading scales it to unit length again, so that no scale is stored. An entry is off by at most
    half a step, 1/254 of the row's largest entry.
    """
    if dtype != DTYPES["int8"]:
        return rows.astype(dtype)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    stored: npt.NDArray[Any] = np.rint(rows / np.where(largest > 0, largest, 1) * _STEPS)
    return stored.astype(dtype)


def decode(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return stored rows (n, D) as float32, those of int8 as unit rows: a fresh array."""
    import torch

    # torch widens short numbers several times faster than numpy does.
    wide = torch.from_numpy(stored).float()
    if stored.dtype == DTYPES["int8"]:
        wide /= torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_(min=1.0)
    values: npt.NDArray[np.float32] = wide.numpy()
    return values


# ---------------------------------------------------------------------------- building


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
    """Return the checksums of the leading chunks that the journal of an equal plan has whole."""
    if not all((path / name).exists() for name in (JOURNAL_NAME, DATA_NAME, CHECKS_NAME)):
        return []
    text = (path / JOURNAL_NAME).read_bytes().decode(errors="replace")
    first, *lines = text.split("\n")
    checksums: list[int] = []
    for line in lines if first == plan.line else ():
        found = re.fullmatch(rf"\[{len(checksums)}, ([0-9]+)\]", line)
        if not found:
            break
        checksums.append(int(found[1]))
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
            discard(path)
        raise


def _write_at(handle: IO[Any], offset: int, content: bytes) -> None:
    handle.seek(offset)
    handle.write(content)
    handle.flush()
    os.fsync(handle.fileno())


def _unit_rows(values: Any, start: int, stop: int, dim: int) -> npt.NDArray[np.float32]:
    """Scale rows (n, dim) to unit length in float32; a zero row stays zero."""
    array, shape = np.asarray(values), (stop - start, dim)
    if array.shape != shape:
        what = f"features of rows {start} to {stop - 1}"
        raise ValueError(f"{what} must have the shape {shape}, got {array.shape}")
    array = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        row = f"row {start + bad[0]}"
        raise ValueError(f"features of {row} are not finite; look at that image and its backbone")
    # Scaling by the largest entry first keeps the squares of large features from overflowing.
    scale = np.abs(array).max(axis=1, keepdims=True)
    array = array / np.where(scale > 0, scale, 1)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return np.asarray(array / np.where(norms > 0, norms, 1), dtype=np.float32)
