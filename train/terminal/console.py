"""What a person sees while work goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

SECONDS_BETWEEN_LINES = 60.0

_announced = False


def say(text: str) -> None:
    """Write a line to standard error: progress and notes, never results."""
    settle()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def announce(text: str, *, quiet: bool) -> None:
    """Say on a terminal what is going to be done, before imports that take seconds.

    It stays if the work begins. What is refused gets one line on standard error and no other, so
    that line takes its place (`settle`); where there is no terminal nothing is said.
    """
    global _announced
    if sys.stderr.isatty() and not quiet:
        _announced = True
        sys.stderr.write(text)
        sys.stderr.flush()


def settle(*, refused: bool = False) -> None:
    """Let what was announced stand as a line of its own, or wipe it out."""
    global _announced
    if _announced:
        sys.stderr.write("\r\033[K" if refused else "\n")
        _announced = False


def out(text: str = "") -> None:
    """Write a line of results to standard output, where somebody may wait for it."""
    settle()
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(table: Any) -> None:
    """Write a table as a result: with lines on a terminal, plain elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console as RichConsole

        RichConsole().print(table)
    else:
        out(table.text())


class Console:
    """Progress of long work on standard error.

    On a terminal one bar for each phase; otherwise a phase's first line at once, then one a minute.

    Args:
        quiet: Say nothing.

    Attributes:
        last_said: When a line was last said of something.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self.terminal = quiet, sys.stderr.isatty()
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self.last_said: dict[str, float] = {}
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Say what a person should know; the same words once."""
        if not self.quiet and text not in self._said:
            self._said.add(text)
            say(text)

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` of a phase is done."""
        if self.terminal and not self.quiet:
            settle()
            self._show_bar(phase, done, total)
        else:
            self.seldom(phase, f"{phase} {done}/{total}")

    def seldom(self, what: str, text: str) -> None:
        """Say how something stands, once a minute at most."""
        due = time.monotonic() - self.last_said.get(what, -1e9) >= SECONDS_BETWEEN_LINES
        if due and not self.quiet:
            self.last_said[what] = time.monotonic()
            say(text)

    def _show_bar(self, phase: str, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console as RichConsole
            from rich.progress import Progress

            self._bar = Progress(console=RichConsole(stderr=True))
            self._bar.start()
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
        self._bar.update(self._tasks[phase], completed=done, total=total)
