"""One run of many: what it is, doing it in this process, and who watches meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_sealed
from gstds.train.running.ending import StopFlag
from gstds.train.running.folder import FolderInUseError
from gstds.train.running.options import RunConfig
from gstds.train.running.run import execute
from gstds.train.tracking.log import LOG_NAME, read_log
from gstds.train.tracking.uploader import Upload

__all__ = ["RETRIES", "Ended", "Job", "Logs", "Watch", "failed_result", "run_job"]

Ended = Callable[["Job", dict[str, Any]], None]

RETRIES = 2
"""How often a run whose process died is tried again, from its last checkpoint."""

_SECONDS_BETWEEN_TRIES = 0.2
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        label: The row of the comparison that it belongs to: a policy, or one with options.
        config: The run's options.
        folder: Where it goes.
        tracking: URI of the tracking store, None for no tracking.
        experiment: The tracking store's experiment.
        tags: Tags of its record.
        checkpoint_every: Steps between checkpoints.
        command: The command that asked for it.
        threads: Threads that it may use.
        elsewhere: It is done on another machine, whose devices are not those here.
    """

    label: str
    config: RunConfig
    folder: Path
    tracking: str | None
    experiment: str
    tags: dict[str, str]
    checkpoint_every: int
    command: str
    threads: int
    elsewhere: bool = False

    @property
    def name(self) -> str:
        """What the run is called while it goes on."""
        return f"{self.label} seed {self.config.seed}"


def run_job(
    job: Job, progress: Callable[[str, int, int], None] | None = None, stop: StopFlag | None = None
) -> dict[str, Any]:
    """Do one run, or go on with it; a failed run is a result too.

    Args:
        job: The run. A process that still saves its last checkpoint there is waited for.
        progress: Called with a phase, what is done, and the total.
        stop: Looked at between steps, and while waiting.
    """
    stop = stop or StopFlag()
    upload = Upload(job.tracking, job.experiment, elsewhere=job.elsewhere) if job.tracking else None
    with _limited_threads(job.threads):
        while not stop.is_set:
            try:
                return execute(
                    job.config,
                    job.folder,
                    upload=upload,
                    resume=(job.folder / "config.json").exists(),
                    checkpoint_every=job.checkpoint_every,
                    tags=job.tags,
                    progress=progress,
                    command=job.command,
                    stop=stop,
                )
            except FolderInUseError:
                time.sleep(_SECONDS_BETWEEN_TRIES)
            except (Exception, SystemExit) as error:  # users' code may end itself
                with contextlib.suppress(OSError, ValueError):
                    return read_sealed(job.folder / "result.json")
                return failed_result(job.config, f"{type(error).__name__}: {error}")
    return failed_result(job.config, "stopped before it began", "interrupted")


@contextlib.contextmanager
def _limited_threads(threads: int) -> Iterator[None]:
    """Keep torch and the linear algebra libraries to a number of threads, as long as this lasts."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def failed_result(config: RunConfig, error: str, status: str = "failed") -> dict[str, Any]:
    """Return the result of a run that ended before it could write one."""
    names = ("run_id", "test_accuracy", "test_loss", "train_loss", "mean_keep", "charged_flops")
    more = ("reference_flops", "full_flops", "seconds", "steps", "weights_sha256", "val_accuracy")
    return {
        **{name: getattr(config, name) for name in ("policy", "seed", "dataset", "learner")},
        **dict.fromkeys((*names, *more)),
        **{"seconds_by_phase": {}, "history": [], "status": status, "error": error},
    }


class Watch:
    """Is told what happens to the runs of a comparison; this one does not care."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """What comes before the runs has done ``done`` of ``total`` of a phase."""

    def expect(self, jobs: Sequence[Job]) -> None:
        """Take note of all runs that there will be."""

    def moved(
        self, job: Job, phase: str, done: int, total: int, accuracy: float | None = None
    ) -> None:
        """A run has done ``done`` of ``total`` of a phase, and may have been evaluated."""

    def ended(self, job: Job, result: Mapping[str, Any], old: bool = False) -> None:
        """A run has ended, well or not, now or before (``old``)."""

    def note(self, text: str) -> None:
        """Something happened that a person should know."""


@dataclass
class Logs:
    """Reads the logs of runs that go on, whoever does them, and tells a watch.

    Args:
        watch: Is told how far each run is, and its accuracy on selection-validation.
    """

    watch: Watch
    _read: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _next: float = 0.0

    def look(self, jobs: Iterable[Job]) -> list[Job]:
        """Read what is new, twice a second at most; return the runs that were evaluated."""
        if time.monotonic() < self._next:
            return []
        evaluated = [job for job in jobs if self._look(job)]
        self._next = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        return evaluated

    def _look(self, job: Job) -> bool:
        offset, total = self._read.get(job.folder, (0, 0))
        step, accuracy = None, None
        # No log yet, or a damaged one: that is for the run itself to say.
        with contextlib.suppress(OSError, ValueError):
            for line, end in read_log(job.folder / LOG_NAME, offset):
                offset, total, step = end, line.get("steps", total), line.get("step", step)
                accuracy = line.get("values", {}).get("val/accuracy", accuracy)
        self._read[job.folder] = offset, total
        if step is not None:
            self.watch.moved(job, "training", step, total, accuracy)
        return accuracy is not None
