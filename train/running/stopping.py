"""Stopping by a signal without losing what was done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["StopFlag", "interruptible"]


class StopFlag:
    """Set by a signal; the runner looks at it after each step."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self, *_: Any) -> None:
        """Ask for a stop."""
        self.is_set = True


@contextlib.contextmanager
def interruptible(stop: StopFlag) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a stop after the current step; a second one kills."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
