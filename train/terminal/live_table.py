"""The live table of runs that go on side by side; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gstds.train.figures.tables import Table, lay_out
from gstds.train.launching.jobs import Job, Share, Watch
from gstds.train.terminal.console import Console

_MOST_ROWS = 24
_COLUMNS = [("policy", "policy", "text"), ("seed", "seed", "text"), ("status", "status", "text")]
_COLUMNS += [("share", "progress", "{:.0%}"), ("accuracy", "val accuracy %", "points .2f")]


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
        self._runs: dict[Path, dict[str, Any]] = {}
        self._live: Any = None
        self.last_said["runs"] = time.monotonic()

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
            self._change(job)
        if self.terminal and not self.quiet and self._live is None:
            from rich.console import Console as RichConsole
            from rich.live import Live

            console = RichConsole(stderr=True)
            self._live = Live(get_renderable=self.table, console=console, refresh_per_second=2)
            self._live.start()

    def moved(self, job: Job, phase: str, done: int, total: int, accuracy: Share = None) -> None:
        """A run has done ``done`` of ``total`` of a phase, and may have been evaluated."""
        now = {"share": done / total if total else 0.0, "over": False}
        status = "running" if phase == "training" else f"running {phase}"
        self._change(job, accuracy, status=status, running=f"{job.name} {phase}", **now)
        if not self._live:
            self.seldom("runs", self.line())

    def ended(self, job: Job, result: Mapping[str, Any], old: bool = False) -> None:
        """A run has ended; where there is no table, say so."""
        status, accuracy = str(result["status"]), result.get("val_accuracy")
        share = {"share": 1.0} if status == "finished" else {}
        self._change(job, accuracy, status=status, running="", over=True, **share)
        error = [str(result["error"])] if result.get("error") else []
        if not self._live:
            named = {"test accuracy": result.get("test_accuracy"), "validation": accuracy}
            scores = [f"{name} {100 * v:.2f}%" for name, v in named.items() if v is not None]
            head = f"{job.name}: {status}{' (from before)' if old else ''}"
            self.note(f"[{self._over()}/{len(self._runs)}] " + ", ".join([head, *scores, *error]))
        elif error:
            self.note(f"{job.name}: {error[0]}")

    def table(self) -> Table:
        """Return the table as it stands: what runs first, then what changed last."""
        runs = list(self._runs.values())
        first = sorted(runs, key=lambda one: (not one["running"], not one["over"], -one["changed"]))
        shown = set(map(id, first[:_MOST_ROWS]))
        done = f"{sum(one['share'] == 1.0 for one in runs)} of {len(runs)} runs done"
        return lay_out([one for one in runs if id(one) in shown], _COLUMNS, done)

    def line(self) -> str:
        """Return how things stand in one line."""
        running = [one for one in self._runs.values() if one["running"]]
        lines = [f"{one['running']} {one['share']:.0%}" for one in running]
        return "; ".join([f"{self._over()} of {len(self._runs)} runs done", *lines])

    def _over(self) -> int:
        return sum(one["over"] for one in self._runs.values())

    def _change(self, job: Job, accuracy: Share = None, **changes: Any) -> None:
        """Take down how a run stands."""
        new = {"policy": job.label, "seed": job.config.seed, "status": "waiting", "accuracy": None}
        new |= {"share": 0.0, "running": "", "over": False}
        run = self._runs.setdefault(job.folder, new)
        seen = {} if accuracy is None else {"accuracy": accuracy}
        run.update(changes, changed=time.monotonic(), **seen)
