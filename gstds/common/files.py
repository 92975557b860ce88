"""Files: written so that a reader sees the old content or the new, never half of it; and locks.

A lock is a file held by one process at a time, freed by the system when the process dies. It is our
own because filelock takes a tenth of a second to import and leaves its file behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

fcntl: Any = None
with contextlib.suppress(ImportError):
    import fcntl

Buffer = bytes | bytearray | memoryview

_SECONDS_BETWEEN_TRIES = 0.1


def cache_root() -> Path:
    """Return the folder of caches: ``$GSTDS_CACHE``, or ``~/.cache/gstds``."""
    return Path(os.environ.get("GSTDS_CACHE") or Path.home() / ".cache" / "gstds").expanduser()


def sha256(*content: str | Buffer, parts: Iterable[str | Buffer] = ()) -> str:
    """Return the SHA-256 of content, then of parts, in hexadecimal: the project's one checksum.

    The rows of feature stores alone have CRC-32s: four bytes for each of millions.
    """
    digest = hashlib.sha256()
    for part in itertools.chain(content, parts):
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def fsync_directory(path: Path) -> None:
    """Make a rename inside ``path`` durable, where the system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_open(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; rename it there once all was written and synced.

    Args:
        path: Where the file is to stand. Missing parent folders are made.

    Yields:
        A binary file to write to. If the body raises, ``path`` is left as it was.

    Raises:
        OSError: If the disk is full or the folder is not writable.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    fsync_directory(target.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_open(path) as handle:
        handle.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically, as strict JSON (no NaN, no infinity)."""
    with pending_json(path, value):
        pass


@contextlib.contextmanager
def pending_json(path: str | Path, value: Any) -> Iterator[None]:
    """Write ``value`` now; let it stand at ``path`` only when the body has ended without an error.

    Raises:
        OSError: Before the body, if the disk is full or the folder is not writable.
    """
    with atomic_open(path) as handle:
        handle.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
        handle.flush()
        os.fsync(handle.fileno())
        yield


@contextlib.contextmanager
def locked(path: str | Path, *, wait: float | None = None, keep: bool = True) -> Iterator[None]:
    """Hold the lock at ``path``; missing folders are made.

    Args:
        path: The lock's file.
        wait: Seconds to wait for another holder; None for as long as it takes.
        keep: Leave the file there afterwards.

    Raises:
        BlockingIOError: If another process or handle still holds it after ``wait`` seconds.
        OSError: If the file cannot be made.
    """
    place = Path(path)
    deadline = None if wait is None else time.monotonic() + wait
    while (descriptor := _take(place)) is None:
        if deadline is not None and time.monotonic() >= deadline:
            raise BlockingIOError(f"{place} is held by another process")
        time.sleep(_SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        if not keep:
            place.unlink(missing_ok=True)
        os.close(descriptor)


def is_locked(path: str | Path) -> bool:
    """Return whether some process holds the lock at ``path``; makes nothing."""
    place = Path(path)
    if not place.exists():
        return False
    descriptor = _take(place)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def _take(place: Path) -> int | None:
    """Return the open and locked file, or None if another holds it."""
    place.parent.mkdir(parents=True, exist_ok=True)  # its last holder may have removed the folder
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if fcntl:  # on Windows, one process at a time is the user's care
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), place.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # held, or just removed by its last holder
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
