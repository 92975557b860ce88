"""Whether a disk has room for what is going to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["check_space"]


def check_space(folder: Path, needed: int) -> None:
    """Refuse a folder whose disk has less room than a run needs.

    Args:
        folder: Where the run writes.
        needed: Bytes.

    Raises:
        OSError: If there is less; the message names both figures.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"--out {str(folder)!r}: no space on the disk, {free / 1e6:.1f} MB free and up to "
            f"{needed / 1e6:.1f} MB needed; free some, name another folder, or do without "
            "checkpoints: --checkpoint-every 0"
        )
