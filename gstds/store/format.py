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
    *,
    rows: int,
    dim: int,
    dtype: np.dtype[Any],
    chunk_rows: int,
    fingerprint: str,
    backbone: Mapping[str, Any],
    checksums: list[int],
) -> dict[str, Any]:
    """Return a store's manifest; nothing in it depends on when or in how many goes it was built."""
    manifest: dict[str, Any] = {
        "version": VERSION,
        "rows": rows,
        "dim": dim,
        "dtype": dtype.str,
        "chunk_rows": chunk_rows,
        "bytes": len(array_header(rows, dim, dtype)) + rows * dim * dtype.itemsize,
        "fingerprint": fingerprint,
        "backbone": dict(backbone),
        "checksums": checksums,
    }
    manifest["sha256"] = digest(manifest)
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a store's manifest.

    Raises:
        StoreError: If there is none, or it is damaged or of another version.
    """
    try:
        manifest = read_json(path / MANIFEST_NAME)
    except (FileNotFoundError, NotADirectoryError):
        raise _absent(path) from None
    except ValueError:
        raise StoreError(path, f"{MANIFEST_NAME} is damaged (not JSON)") from None
    _check_manifest(path, manifest)
    return dict(manifest)


def _absent(path: Path) -> StoreError:
    if (path / DATA_NAME).exists():
        return StoreError(path, "its build was not finished", _RUN.format("resume"))
    return StoreError(path, "there is no store", _RUN.format("build"))


def _check_manifest(path: Path, manifest: Any) -> None:
    try:
        whole = isinstance(manifest, dict) and manifest.get("sha256") == digest(manifest)
    except ValueError:  # a number that is not finite
        whole = False
    if not whole:
        raise StoreError(path, f"{MANIFEST_NAME} is damaged (checksum of the manifest)")
    if manifest.get("version") not in _READABLE:
        found, known = manifest.get("version"), " and ".join(map(str, _READABLE))
        raise StoreError(path, f"version {found!r}, this release reads versions {known}")


def check_matches(
    path: Path,
    manifest: Mapping[str, Any],
    *,
    fingerprint: str | None = None,
    backbone: Mapping[str, Any] | None = None,
    shape: tuple[int, int] | None = None,
    dtype: np.dtype[Any] | None = None,
) -> None:
    """Refuse a store that was made from other data, by another backbone or in another shape.

    Raises:
        StoreError: The message names what differs, and both values.
    """
    if fingerprint is not None and manifest["fingerprint"] != fingerprint:
        found = manifest["fingerprint"]
        raise StoreError(path, f"fingerprint of the data is {found!r}, expected {fingerprint!r}")
    if backbone is not None and canonical(manifest["backbone"]) != canonical(dict(backbone)):
        found, wanted = _difference(manifest["backbone"], backbone)
        raise StoreError(path, f"backbone is {found}, expected {wanted}")
    size = (manifest["rows"], manifest["dim"])
    if shape is not None and size != shape:
        raise StoreError(path, f"size is {size} (rows, dim), expected {shape}")
    if dtype is not None and manifest["dtype"] != dtype.str:
        raise StoreError(path, f"type is {manifest['dtype']!r}, expected {dtype.str!r}")


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, str]:
    keys = [k for k in sorted({*found, *wanted}) if found.get(k) != wanted.get(k)]
    return (
        canonical({k: found[k] for k in keys if k in found}),
        canonical({k: wanted[k] for k in keys if k in wanted}),
    )
