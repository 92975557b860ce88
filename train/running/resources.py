"""Whether a disk has room for what is going to be written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

__all__ = ["check_space", "space_needed"]

_RESULTS = 500_000


def space_needed(env: Any, *, checkpoints: bool) -> int:
    """Return about how many bytes a run writes at most: checkpoints, result, pictures.

    Args:
        env: The run's environment.
        checkpoints: Whether the run writes any.
    """
    weights = sum(tensor.nbytes for tensor in env.learner.model.state_dict().values())
    bits = min(env.total_steps, env.max_draws) * (env.options.batch_size // 8 + 1)
    one = 3 * weights + 32 * len(env.data.train) + bits
    # Two checkpoints are kept, and a third is there while it is written.
    return int(3 * one * checkpoints + bits + _RESULTS)


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
