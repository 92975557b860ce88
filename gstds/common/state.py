"""Checkpoints: a nested state as safetensors (arrays) plus JSON (the rest), written atomically.

A checkpoint is the pair ``step-N.safetensors`` and ``step-N.json``. The JSON is written last and
holds the digest of the arrays, so that a pair is whole or is not there, and its own seal.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from gstds.common.checksummed_json import read_sealed, sealed
from gstds.common.files import sha256, write_bytes, write_text

__all__ = ["StateError", "all_finite", "latest_state", "save_state", "state_digest"]

_log = logging.getLogger(__name__)

_KEPT = 2
_ARRAY = "__array__"
_TENSOR = "__tensor__"


class StateError(ValueError):
    """A checkpoint is damaged."""


def _split(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value).copy())
        return {_ARRAY: path}
    if isinstance(value, dict):
        return {str(k): _split(v, f"{path}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(
            f"state_dict: entry {path.lstrip('/')!r} cannot be saved, it must be an array of "
            f"numbers, a tensor or a JSON value, got {value!r:.80}"
        )
    return value


def _join(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if _ARRAY in value:
            return tensors[value[_ARRAY]].numpy()
        return {k: _join(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    return value


def save_state(folder: str | Path, step: int, state: dict[str, Any]) -> None:
    """Write a checkpoint and drop all but the last two.

    Args:
        folder: Where checkpoints live.
        step: Drawn batches done.
        state: Nested dicts and lists of arrays, tensors and JSON-able values.

    Raises:
        TypeError: If a value is none of these; the message names its entry. Nothing is written.
        OSError: If the disk is full or the folder is not writable; older checkpoints stay.
    """
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _split(state, "", tensors)
    data = save_tensors(tensors)
    folder = Path(folder)
    stem = folder / f"step-{step:09d}"
    write_bytes(stem.with_suffix(".safetensors"), data)
    note = {"version": 1, "sha256": sha256(data), "state": skeleton}
    write_text(stem.with_suffix(".json"), json.dumps(sealed(note)))
    for old in _steps(folder)[:-_KEPT]:
        for suffix in (".json", ".safetensors"):
            with contextlib.suppress(OSError):
                (folder / old).with_suffix(suffix).unlink()


def _steps(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("step-*.json"))


def latest_state(folder: str | Path) -> dict[str, Any] | None:
    """Return the newest whole checkpoint's state, None if there is none.

    Raises:
        StateError: If there are checkpoints and all are damaged; the message names the newest.
    """
    folder = Path(folder)
    problem = None
    for name in reversed(_steps(folder)):
        try:
            return _load(folder / name)
        except StateError as error:
            _log.warning("%s; the one before it is taken", error)
            problem = problem or error
    if problem:
        raise StateError(
            f"every checkpoint in {folder} is damaged, the newest: {problem}; "
            "delete the folder to start over"
        )
    return None


def _load(stem: Path) -> dict[str, Any]:
    try:
        note = read_sealed(stem.with_suffix(".json"))
        if note["version"] != 1:
            raise StateError(f"checkpoint {stem} is of version {note['version']!r}, not 1")
        data = stem.with_suffix(".safetensors").read_bytes()
        if sha256(data) != note["sha256"]:
            raise StateError(f"checkpoint {stem} is damaged: its checksum does not match")
        state = _join(note["state"], load_tensors(data))
    except StateError:
        raise
    except Exception as error:
        raise StateError(f"checkpoint {stem} cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise StateError(f"checkpoint {stem} holds no state")
    return state


def all_finite(tensors: dict[str, torch.Tensor]) -> bool:
    """Return whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def state_digest(
    tensors: Mapping[str, torch.Tensor], head: str = "{name} {shape} {dtype}\n"
) -> str:
    """Return the SHA-256 of tensors, one by one in name order: a head, and the bytes."""

    def parts() -> Iterator[str | bytes]:
        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()
            yield head.format(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype)
            yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()

    return sha256(parts=parts())
