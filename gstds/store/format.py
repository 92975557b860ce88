"""What a feature store looks like on disk, and the checks that tell a whole one from a damaged one.

A store is a folder: ``features.npy`` (rows, dim), little-endian float16 or int8; ``rows.crc32``, a
CRC-32 per row; and ``manifest.json``, which is written last and only then makes the folder a store.
The manifest holds the shapes, the backbone's identity, the data's fingerprint, a CRC-32 per chunk
of ``rows.crc32``, and a SHA-256 of itself. Stores of version 1 have no ``rows.crc32``: there the
CRC-32 is per chunk of features. They are read, and no longer written.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checksummed_json import read_json
from gstds.common.files import sha256

VERSION = 2
_READABLE = (1, 2)
DATA_NAME = "features.npy"
CHECKS_NAME = "rows.crc32"
MANIFEST_NAME = "manifest.json"
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "int8": np.dtype("|i1")}
CHECKS_DTYPE = np.dtype("<u4")
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
    manifest: dict[str, Any] = {
        "version": VERSION,
        "rows": rows,
        "dim": dim,
        "dtype": dtype.str,
        "bytes": len(array_header(rows, dim, dtype)) + rows * dim * dtype.itemsize,
        **made_from,
        "checksums": checksums,
    }
    return {**manifest, "sha256": digest(manifest)}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a store's manifest.

    Raises:
        StoreError: If there is none, or it is damaged or of another version.
    """
    try:
        manifest = read_json(path / MANIFEST_NAME)
    except (FileNotFoundError, NotADirectoryError):
        if (path / DATA_NAME).exists():
            problem = "its build was not finished", _RUN.format("resume")
        else:
            problem = "there is no store", _RUN.format("build")
        raise StoreError(path, *problem) from None
    except ValueError:
        raise StoreError(path, f"{MANIFEST_NAME} is damaged (not JSON)") from None
    try:
        whole = isinstance(manifest, dict) and manifest.get("sha256") == digest(manifest)
    except ValueError:  # a number that is not finite
        whole = False
    if not whole:
        raise StoreError(path, f"{MANIFEST_NAME} is damaged (checksum of the manifest)")
    version = manifest.get("version")
    if version not in _READABLE:
        known = " and ".join(map(str, _READABLE))
        raise StoreError(path, f"version {version!r}, this release reads versions {known}")
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
