"""What the command line answers a shell: done, a run failed, bad input, interrupted."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["EXIT_BAD_INPUT", "EXIT_DONE", "EXIT_FAILED", "EXIT_INTERRUPTED", "code_of"]

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def code_of(statuses: Collection[str], *, whole: bool = True, done: Collection[str] = ()) -> int:
    """Return the exit code of runs.

    Args:
        statuses: How each ended.
        whole: Whether all that were planned are there.
        done: Statuses that count as done beside ``finished``.
    """
    if "interrupted" in statuses or not whole:
        return EXIT_INTERRUPTED
    return EXIT_DONE if set(statuses) <= {"finished", *done} else EXIT_FAILED
