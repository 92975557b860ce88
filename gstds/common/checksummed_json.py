"""JSON files that tell whether they are still what was written.

A sealed file holds its content and, under ``seal``, the SHA-256 of that content. A flipped bit that
leaves the JSON readable, another digit in a seed or a ratio, is thus an error and not another run.
A file without a seal, written by hand or by an older release, is read as it is. The seal finds
damage, not malice: who can write the file can seal it.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gstds.common.files import sha256, write_json

_SEAL = "seal"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with its seal behind it."""
    return {**content, _SEAL: _digest(content)}


def check_seal(note: Any, where: str | Path) -> dict[str, Any]:
    """Return a note without its seal.

    Args:
        note: What stood in the file.
        where: The file, for the message.

    Raises:
        ValueError: If it is no mapping, or its seal is that of another content.
    """
    if not isinstance(note, dict):
        raise ValueError(f"{where} is damaged: it holds no mapping")
    key = _SEAL if _SEAL in note else next(reversed(note), _SEAL)
    content = {name: value for name, value in note.items() if name != key}
    matches = key in note and note[key] == _digest(content)
    if key != _SEAL and not matches:
        return note  # never sealed
    if key in note and (key != _SEAL or not matches):
        raise ValueError(
            f"{where} is damaged: its content is not what was written (its seal does not match)"
        )
    return content


def write_sealed(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` to ``path`` atomically, sealed, as strict JSON."""
    write_json(path, sealed(content))


def read_sealed(path: str | Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, or an unsealed mapping.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no JSON, no mapping, or damaged; the message names it.
    """
    return check_seal(read_json(path), path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no plain file, or no JSON that can be read; the message names it.
    """
    place = Path(path)
    # A pipe or a device in a file's place would be waited for, or read, for ever.
    if not stat.S_ISREG(place.stat().st_mode):
        raise ValueError(f"{place} is no plain file")
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is damaged or no JSON: {error}") from error


def _digest(content: Mapping[str, Any]) -> str:
    # Not sorted: a JSON file keeps the order of its keys, and so needs no keys that compare.
    return sha256(json.dumps(content))
