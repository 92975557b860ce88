"""Bit-identical runs on a GPU, where torch's fastest algorithms add up in any order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

__all__ = ["reproducible"]


@contextlib.contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only, and put its settings back afterwards.

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
