"""Ending early without losing what was done: stopped by a signal, or failed."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gstds.common.checks import place_of
from gstds.train.running.options import RunConfig

_SECONDS_BETWEEN_LOOKS = 0.5


class StopFlag:
    """Set by a signal; the runner looks at it after each step.

    Args:
        asked: Another way to ask for a stop, looked at twice a second.
    """

    def __init__(self, asked: Callable[[], bool] | None = None) -> None:
        self._set, self._asked, self._next = False, asked, 0.0

    @property
    def is_set(self) -> bool:
        """Whether somebody has asked for a stop."""
        if self._asked and not self._set and time.monotonic() >= self._next:
            self._set = self._asked()
            self._next = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        return self._set

    def set(self, *_: Any) -> None:
        """Ask for a stop."""
        self._set = True


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


class RunFailedError(RuntimeError):
    """A run ended with an exception of its policy or its environment.

    Attributes:
        result: The run's result as far as it got, with status ``failed``.
    """

    def __init__(
        self, config: RunConfig, folder: Path, result: dict[str, Any], error: BaseException
    ) -> None:
        step, where = result["steps"], place_of(error)
        super().__init__(
            f"run failed at step {step} (policy {config.policy!r}, seed {config.seed}): "
            f"{type(error).__name__}: {error}"
            + (f" ({where})" if where else "")
            + f"; {folder / 'traceback.txt'} has all of it"
        )
        self.result = result
