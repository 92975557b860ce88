"""One lock: a file held by one process at a time, freed by the system when the process dies.

Not filelock: it takes a tenth of a second to import and leaves its file behind.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["is_locked", "locked"]

_SECONDS_BETWEEN_TRIES = 0.1


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
        if _lock(descriptor) and os.path.samestat(os.fstat(descriptor), place.stat()):
            return descriptor
    except FileNotFoundError:  # its last holder has just removed it
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time is the user's care there
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
