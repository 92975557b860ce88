"""How many threads an update is worth: a second one that has little to do makes it slower.

So it is where OpenMP's threads sleep while they wait, as the command line has it
(``OMP_WAIT_POLICY=PASSIVE``): they must be woken for every layer. Threads that spin are there at
once, as long as no other process wants their core; with them all are taken.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

__all__ = ["limited_threads", "threads_for"]

FLOPS_OF_A_THREAD = 3e8
"""Operations that keep one thread busy for long enough: half of where a second one began to pay."""


waiting_threads_sleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
"""Whether they do: OpenMP reads it once, when torch is loaded."""


def threads_for(flops: float, most: int) -> int:
    """Return how many of at most ``most`` threads so many operations are worth."""
    return max(1, min(most, int(flops // FLOPS_OF_A_THREAD)))


@contextlib.contextmanager
def limited_threads(flops: float, device: torch.device) -> Iterator[None]:
    """Let torch use no more threads in the body than its operations are worth.

    What is decided from the number of operations alone is decided alike in every run.

    Args:
        flops: Operations of the body.
        device: Where they are made; nothing is changed unless it is the processor.
    """
    before = torch.get_num_threads()
    count = threads_for(flops, before) if waiting_threads_sleep and device.type == "cpu" else before
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
