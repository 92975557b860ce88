"""Reference losses, or other small arrays (n,), in one file with manifest and checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.files import write_bytes
from gstds.store_format import StoreError, canonical

__all__ = ["open_losses", "save_losses"]

_KEY = "losses"


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
    from safetensors.numpy import save

    values = np.ascontiguousarray(losses, dtype="<f4")
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"losses must be finite numbers (n,), got shape {values.shape}")
    text = canonical(dict(manifest))
    metadata = {"manifest": text, "sha256": _digest(text, values)}
    write_bytes(path, save({_KEY: values}, metadata=metadata))


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
    target = Path(path)
    try:
        data = target.read_bytes()
    except FileNotFoundError:
        raise StoreError(target, "there are no losses", "run `gstds features`") from None
    values, manifest = _parse(target, data)
    for key, value in (expected or {}).items():
        if key not in manifest or canonical(manifest[key]) != canonical(value):
            raise StoreError(target, f"{key} is {manifest.get(key)!r}, expected {value!r}")
    return values, manifest


def _parse(path: Path, data: bytes) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        values = load(data)[_KEY]
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        text = metadata["manifest"]
        whole = metadata["sha256"] == _digest(text, values)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StoreError(path, "the file of losses is damaged (header)") from error
    if not whole:
        raise StoreError(path, "the checksum of the losses does not match")
    return np.array(values, dtype=np.float32), json.loads(text)


def _digest(text: str, values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(text.encode() + b"\0" + values.tobytes()).hexdigest()
