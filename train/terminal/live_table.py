"""The live table of runs that go on side by side; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gstds.train.launching.jobs import Job, Share, Watch
from gstds.train.terminal.console import SECONDS_BETWEEN_LINES, Console, say

if TYPE_CHECKING:
    from rich.table import Table


_MOST_ROWS = 24


@dataclass
class _State:
    """How one run stands."""

    job: Job
    status: str = "waiting"
    phase: str = ""
    share: float = 0.0
    accuracy: float | None = None
    changed: float = 0.0

    @property
    def over(self) -> bool:
        return self.status not in ("running", "waiting")

    def cells(self) -> tuple[str, ...]:
        phase = f" {self.phase}" if self.status == "running" and self.phase != "training" else ""
        accuracy = "-" if self.accuracy is None else f"{100 * self.accuracy:.2f}"
        share, seed = f"{100 * self.share:.0f}%", str(self.job.config.seed)
        return (self.job.label, seed, self.status + phase, share, accuracy)


class Board(Console, Watch):
    """Shows how runs go on, on standard error.

    On a terminal a table: policy, seed, status, progress, validation accuracy. Otherwise a line a
    minute at most, and one for each run that ended. Of the work before the runs it shows what a
    `Console` does.

    Args:
        quiet: Say nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._states: dict[str, _State] = {}
        self._live: Any = None
        self._last_line = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Leave the last table standing."""
        super().__exit__()
        if self._live:
            self._live.stop()
            self._live = None

    def expect(self, jobs: Sequence[Job]) -> None:
        """Take note of all runs that there will be."""
        super().__exit__()
        for job in jobs:
            self._states.setdefault(str(job.folder), _State(job))
        if self.terminal and not self.quiet and self._live is None:
            from rich.console import Console as RichConsole
            from rich.live import Live

            console = RichConsole(stderr=True)
            self._live = Live(get_renderable=self.table, console=console, refresh_per_second=2)
            self._live.start()

    def moved(self, job: Job, phase: str, done: int, total: int, accuracy: Share = None) -> None:
        """A run has done ``done`` of ``total`` of a phase, and may have been evaluated."""
        share = done / total if total else 0.0
        self._change(job, accuracy, status="running", phase=phase, share=share)

    def ended(self, job: Job, result: Mapping[str, Any], old: bool = False) -> None:
        """A run has ended; where there is no table, say so."""
        status = str(result["status"])
        share = {"share": 1.0} if status == "finished" else {}
        self._change(job, result.get("val_accuracy"), status=status, **share)
        error = [str(result["error"])] if result.get("error") else []
        if not self._live:
            done = sum(state.over for state in self._states.values())
            named = {"test accuracy": "test_accuracy", "validation": "val_accuracy"}
            found = {name: result.get(key) for name, key in named.items()}
            scores = [f"{name} {100 * v:.2f}%" for name, v in found.items() if v is not None]
            head = f"{job.name}: {status}{' (from before)' if old else ''}"
            self.note(f"[{done}/{len(self._states)}] " + ", ".join([head, *scores, *error]))
        elif error:
            self.note(f"{job.name}: {error[0]}")

    def table(self) -> Table:
        """Return the table as it stands: what runs first, then what changed last."""
        from rich.table import Table

        states = list(self._states.values())
        done = sum(state.share == 1.0 for state in states)
        table = Table(caption=f"{done} of {len(states)} runs done", caption_justify="left")
        for name in ("policy", "seed", "status", "progress", "val accuracy %"):
            table.add_column(name, justify="left" if name in ("policy", "status") else "right")
        order = {"running": 0, "waiting": 2}
        first = sorted(states, key=lambda state: (order.get(state.status, 1), -state.changed))
        shown = set(map(id, first[:_MOST_ROWS]))
        for state in states:
            if id(state) in shown:
                table.add_row(*state.cells())
        return table

    def line(self) -> str:
        """Return how things stand in one line."""
        states = list(self._states.values())
        running = [one for one in states if one.status == "running"]
        lines = [f"{one.job.name} {one.phase} {100 * one.share:.0f}%" for one in running]
        over = sum(state.over for state in states)
        return "; ".join([f"{over} of {len(states)} runs done", *lines])

    def _change(self, job: Job, accuracy: float | None, **changes: Any) -> None:
        """Take down how a run stands; where there is no table, a line a minute says it."""
        state = self._states.setdefault(str(job.folder), _State(job))
        vars(state).update(changes, changed=time.monotonic())
        state.accuracy = state.accuracy if accuracy is None else accuracy
        waited = time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES
        if waited and not self._live and not self.quiet:
            self._last_line = time.monotonic()
            say(self.line())
