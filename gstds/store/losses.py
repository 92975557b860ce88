"""Reference losses (n,), or logits (n, C), in one file with manifest and checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import sha256, write_bytes
from gstds.store.format import StoreError, canonical

_SHAPES = {"losses": ("n",), "logits": ("n", "C")}


def save_losses(path: str | Path, losses: npt.ArrayLike, manifest: Mapping[str, Any]) -> None:
    """Write losses (n,) and what they were made from, atomically, as a safetensors file.

    Args:
        path: The file.
        losses: Finite numbers (n,), stored as float32.
        manifest: What the losses were made from (JSON): fingerprint, backbone, probe options.

    Raises:
        ValueError: If the losses are not finite or not one-dimensional.
        OSError: If the file cannot be written.
    """
    _save("losses", path, losses, manifest)


def save_logits(path: str | Path, logits: npt.ArrayLike, manifest: Mapping[str, Any]) -> None:
    """Write logits (n, C); otherwise as `save_losses`."""
    _save("logits", path, logits, manifest)


def _save(kind: str, path: str | Path, array: npt.ArrayLike, manifest: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    values = np.ascontiguousarray(array, dtype="<f4")
    shape = _SHAPES[kind]
    if values.ndim != len(shape) or not np.isfinite(values).all():
        wanted = f"({', '.join(shape)}{',' * (len(shape) == 1)})"
        raise ValueError(f"{kind} must be finite numbers {wanted}, got shape {values.shape}")
    text = canonical(dict(manifest))
    metadata = {"manifest": text, "sha256": _digest(text, values)}
    write_bytes(path, save({kind: values}, metadata=metadata))


def open_losses(
    path: str | Path, *, expected: Mapping[str, Any] | None = None
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Read losses that `save_losses` wrote.

    Args:
        path: The file.
        expected: Entries that the manifest must have, with these values.

    Returns:
        The losses (n,) and their manifest.

    Raises:
        StoreError: If the file is missing, damaged, or made from something else.
    """
    return _open("losses", path, expected)


def open_logits(
    path: str | Path, *, expected: Mapping[str, Any] | None = None
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Read logits (n, C) that `save_logits` wrote; otherwise as `open_losses`."""
    return _open("logits", path, expected)


def _open(
    kind: str, path: str | Path, expected: Mapping[str, Any] | None
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    target = Path(path)
    try:
        data = target.read_bytes()
    except FileNotFoundError:
        mend = "run `gstds features`, or gstds.prepare_store for images of your own"
        raise StoreError(target, f"there are no {kind}", mend) from None
    values, manifest = _parse(kind, target, data)
    for key, value in (expected or {}).items():
        if key not in manifest or canonical(manifest[key]) != canonical(value):
            raise StoreError(target, f"{key} is {manifest.get(key)!r}, expected {value!r}")
    return values, manifest


def _parse(kind: str, path: Path, data: bytes) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        values = load(data)[kind]
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        text = metadata["manifest"]
        whole = metadata["sha256"] == _digest(text, values)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StoreError(path, f"the file of {kind} is damaged (header)") from error
    if not whole:
        raise StoreError(path, f"the checksum of the {kind} does not match")
    return np.array(values, dtype=np.float32), json.loads(text)


def _digest(text: str, values: npt.NDArray[Any]) -> str:
    return sha256(text, b"\0", values.tobytes())
