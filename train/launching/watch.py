"""Who watches while runs go on: nobody, a progress function, or the live table of the board."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gstds.train.launching.jobs import Job

__all__ = ["ProgressWatch", "Watch", "run_name"]

Progress = Callable[[str, int, int], None]


def run_name(job: Job) -> str:
    """Return what a run is called while it goes on."""
    return f"{job.label} seed {job.config.seed}"


class Watch(Protocol):
    """Is told what happens to the runs of a comparison."""

    def expect(self, jobs: Sequence[Job]) -> None:
        """Take note of all runs that there will be."""

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        """A run has done ``done`` of ``total`` of a phase."""

    def evaluated(self, job: Job, row: Mapping[str, Any]) -> None:
        """A run was evaluated; ``row`` is a row of its history."""

    def ended(self, job: Job, result: Mapping[str, Any], old: bool = False) -> None:
        """A run has ended, well or not, now or before (``old``)."""

    def note(self, text: str) -> None:
        """Something happened that a person should know."""


class ProgressWatch:
    """Hands on what matters to a plain progress function.

    Args:
        progress: Called with a run and its phase, what is done, and the total; None for nobody.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or (lambda phase, done, total: None)

    def expect(self, jobs: Sequence[Job]) -> None:
        """Do nothing."""

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        """Hand it on."""
        self._progress(f"{run_name(job)} {phase}", done, total)

    def evaluated(self, job: Job, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def ended(self, job: Job, result: Mapping[str, Any], old: bool = False) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
