"""Forked processes: OpenMP's threads are not in them, though GNU's OpenMP believes they are.

A fork has the forking thread alone. GNU's libgomp, which torch's wheels for Linux bring, keeps the
pool of that thread in mind and waits in the child, for ever, for threads that are the parent's. So
the pool is put down before a fork; parent and child each start another when they need one. That
changes no count of threads, and so not a bit. (OpenBLAS, Intel's and LLVM's OpenMP see to this
themselves.) ``gymnasium.vector.AsyncVectorEnv`` forks by default, after it has made one environment
to look at its spaces.
"""

from __future__ import annotations

import multiprocessing
import os

import threadpoolctl
import torch

_HARD = 2  # omp_pause_hard
_released = True


def survive_forks() -> None:
    """Let this process fork whatever its threads have done, and itself be such a fork.

    A process that was forked before it came here, or under a libgomp older than GCC 9, whose pool
    cannot be put down, has one thread from now on.
    """
    if type(multiprocessing.current_process()).__name__ == "ForkProcess":
        torch.set_num_threads(1)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_release_pools, after_in_child=_go_on)


def _release_pools() -> None:
    global _released
    found = threadpoolctl.ThreadpoolController().select(prefix="libgomp").lib_controllers
    pauses = [getattr(one.dynlib, "omp_pause_resource_all", None) for one in found]
    failed = [pause is None or pause(_HARD) for pause in pauses]  # each, whatever the others say
    _released = not any(failed)


def _go_on() -> None:
    if not _released:
        torch.set_num_threads(1)
