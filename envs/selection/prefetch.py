"""What the next batch's cached features say, computed while the learner trains on this one."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch

__all__ = ["Ahead"]

Answer = Any
_pools: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    """Return the process's one thread for this: a forked child does not have its parent's."""
    mine = os.getpid()
    if mine not in _pools:
        _pools.clear()
        _pools[mine] = _single_threaded()
    return _pools[mine]


def _single_threaded() -> ThreadPoolExecutor:
    """Return a thread whose torch operations take no others: those are the learner's."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="gstds-ahead")
    learners = torch.get_num_threads()
    pool.submit(torch.set_num_threads, 1).result()
    # torch notes the last count said anywhere for threads to come; a count holds for its thread.
    torch.set_num_threads(learners)
    return pool


class Ahead:
    """Answers for a step, from a thread that may have begun with it before it was asked.

    The answer depends on the step alone, so nothing of this is part of a run's state; and it always
    comes from that thread, so it is the same to the bit whether it was begun or not. Whoever begins
    steps must take one before doing linear algebra of their own, which waits for all that were
    begun: while the thread solves it holds numpy's BLAS to one thread, and with it the last bits of
    everybody's products.

    Args:
        compute: Step -> answer, free of side effects.
        active: False computes no sooner than asked.
    """

    def __init__(self, compute: Callable[[int], Answer], *, active: bool) -> None:
        self._compute, self._active = compute, active
        self._begun: dict[int, Future[Answer]] = {}
        self._process = os.getpid()

    @property
    def begun(self) -> frozenset[int]:
        """Steps that were begun, from the one last taken on."""
        return frozenset(self._begun)

    def begin(self, step: int, count: int = 1) -> None:
        """Start on ``count`` steps from ``step`` on, unless that is not wanted or was done."""
        for one in range(step, step + count) if self._active else ():
            self._start(one)

    def take(self, step: int) -> Answer:
        """Return a step's answer; computed once, however often it is taken.

        Raises:
            Exception: Whatever ``compute`` raised.
        """
        answer = self._start(step)
        wait(self._begun.values())
        self._begun = {one: future for one, future in self._begun.items() if one >= step}
        return answer.result()

    def _start(self, step: int) -> Future[Answer]:
        if self._process != os.getpid():  # forked: the thread that had begun these is not here
            self._process, self._begun = os.getpid(), {}
        if step not in self._begun:
            self._begun[step] = _pool().submit(self._compute, step)
        return self._begun[step]
