"""The live table of runs that go on side by side; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gstds.train.launching.jobs import Job, Watch, run_name
from gstds.train.terminal.console import SECONDS_BETWEEN_LINES, Console, say

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Board"]

_MOST_ROWS = 24


@dataclass
class _State:
    """How one run stands."""

    policy: str
    seed: int
    status: str = "waiting"
    phase: str = ""
    share: float = 0.0
    accuracy: float | None = None
    changed: float = 0.0


class Board(Watch):
    """Shows how runs go on, on standard error.

    On a terminal a table: policy, seed, status, progress, validation accuracy. Otherwise a line a
    minute at most, and one for each run that ended. It is also the progress function of the work
    before the runs.

    Args:
        quiet: Say nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._before = Console(quiet=quiet)
        self._states: dict[str, _State] = {}
        self._live: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last table standing."""
        self._before.__exit__(kind, error, trace)
        if self._live:
            self._live.update(self.table(), refresh=True)
            self._live.stop()
            self._live = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show progress of what comes before the runs."""
        self._before(phase, done, total)

    def expect(self, jobs: Sequence[Job]) -> None:
        """Take note of all runs that there will be."""
        self._before.__exit__(None, None, None)
        for job in jobs:
            self._states.setdefault(str(job.folder), _State(job.label, job.config.seed))
        if self._terminal and not self._quiet and self._live is None:
            self._open()

    def moved(
        self, job: Job, phase: str, done: int, total: int, accuracy: float | None = None
    ) -> None:
        """A run has done ``done`` of ``total`` of a phase, and may have been evaluated."""
        state = self._state(job)
        state.status, state.phase = "running", phase
        state.share = done / total if total else 0.0
        state.accuracy = state.accuracy if accuracy is None else accuracy
        self._show()

    def ended(self, job: Job, result: Mapping[str, Any], old: bool = False) -> None:
        """A run has ended; where there is no table, say so."""
        state = self._state(job)
        state.status = str(result["status"])
        state.share = 1.0 if state.status == "finished" else state.share
        if result.get("val_accuracy") is not None:
            state.accuracy = result["val_accuracy"]
        if not self._live and not self._quiet:
            say(self._ended_line(job, result, old))
        elif result.get("error") and not self._quiet:
            say(f"{run_name(job)}: {result['error']}")
        self._show()

    def note(self, text: str) -> None:
        """Say what a person should know."""
        if not self._quiet:
            say(text)

    def table(self) -> Table:
        """Return the table as it stands: what runs first, then what changed last."""
        from rich.table import Table

        done = sum(1 for state in self._states.values() if state.share == 1.0)
        table = Table(caption=f"{done} of {len(self._states)} runs done", caption_justify="left")
        for name in ("policy", "seed", "status", "progress", "val accuracy %"):
            table.add_column(name, justify="left" if name in ("policy", "status") else "right")
        for state in self._shown():
            table.add_row(*_cells(state))
        return table

    def line(self) -> str:
        """Return how things stand in one line."""
        states = list(self._states.values())
        running = [s for s in states if s.status == "running"]
        over = sum(1 for s in states if s.status not in ("running", "waiting"))
        parts = [f"{s.policy} seed {s.seed} {s.phase} {100 * s.share:.0f}%" for s in running]
        return "; ".join([f"{over} of {len(states)} runs done", *parts])

    def _shown(self) -> list[_State]:
        order = {"running": 0, "waiting": 2}
        states = sorted(
            self._states.values(),
            key=lambda s: (order.get(s.status, 1), -s.changed),
        )
        kept = set(map(id, states[:_MOST_ROWS]))
        return [state for state in self._states.values() if id(state) in kept]

    def _state(self, job: Job) -> _State:
        state = self._states.setdefault(str(job.folder), _State(job.label, job.config.seed))
        state.changed = time.monotonic()
        return state

    def _open(self) -> None:
        from rich.console import Console as RichConsole
        from rich.live import Live

        self._live = Live(
            get_renderable=self.table, console=RichConsole(stderr=True), refresh_per_second=2
        )
        self._live.start()

    def _show(self) -> None:
        if self._live or self._quiet:
            return
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(self.line())

    def _ended_line(self, job: Job, result: Mapping[str, Any], old: bool) -> str:
        done = sum(1 for s in self._states.values() if s.status not in ("running", "waiting"))
        head = f"{run_name(job)}: {result['status']}{' (from before)' if old else ''}"
        scores = [
            f"{name} {100 * result[key]:.2f}%"
            for name, key in (("test accuracy", "test_accuracy"), ("validation", "val_accuracy"))
            if result.get(key) is not None
        ]
        error = [str(result["error"])] if result.get("error") else []
        return f"[{done}/{len(self._states)}] " + ", ".join([head, *scores, *error])


def _cells(state: _State) -> tuple[str, ...]:
    accuracy = "-" if state.accuracy is None else f"{100 * state.accuracy:.2f}"
    phase = "" if state.phase in ("", "training") else f" {state.phase}"
    return (
        state.policy,
        str(state.seed),
        state.status + (phase if state.status == "running" else ""),
        f"{100 * state.share:.0f}%",
        accuracy,
    )
