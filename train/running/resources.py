"""What a run asks of the machine: room on the disk, and algorithms that repeat to the bit."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["check_space", "reproducible", "space_needed"]

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


@contextlib.contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only, and put its settings back afterwards.

    On a GPU torch's fastest algorithms add up in any order.
    An operation that has no such algorithm warns. On the processor runs are bit-identical anyway.

    Args:
        wanted: Change nothing if false.
    """
    if not wanted:
        yield
        return
    # Read when the first matrices are multiplied on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    mode = torch.get_deterministic_debug_mode()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
