"""One run of many: what it is, doing it in this process, and who watches meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gstds.common.checksummed_json import read_sealed
from gstds.common.locks import locked
from gstds.train.running.options import RunConfig
from gstds.train.running.run import StopFlag, execute
from gstds.train.tracking.uploader import Upload

__all__ = ["Ended", "Job", "Progress", "ProgressWatch", "Watch", "failed_result"]
__all__ += ["run_job", "run_name"]

Progress = Callable[[str, int, int], None]
Ended = Callable[["Job", dict[str, Any]], None]

_SECONDS_BETWEEN_TRIES = 0.2


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


def run_job(
    job: Job,
    progress: Progress | None = None,
    stop: StopFlag | None = None,
    evaluated: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Do one run, or go on with it; a failed run is a result too.

    Args:
        job: The run.
        progress: Called with a phase, what is done, and the total.
        stop: Looked at between steps.
        evaluated: Called with each evaluation's row of the history.
    """
    stop = stop or StopFlag()
    with _limited_threads(job.threads), _alone_in(job.folder, stop) as alone:
        if not alone:
            return failed_result(job.config, "stopped before it began", "interrupted")
        return _run_alone(job, progress, stop, evaluated)


def _run_alone(
    job: Job,
    progress: Progress | None,
    stop: StopFlag,
    evaluated: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    upload = Upload(job.tracking, job.experiment, elsewhere=job.elsewhere) if job.tracking else None
    begun = (job.folder / "config.json").exists()
    try:
        return execute(
            job.config,
            job.folder,
            upload=upload,
            resume=begun,
            checkpoint_every=job.checkpoint_every,
            tags=job.tags,
            progress=progress,
            evaluated=evaluated,
            command=job.command,
            stop=stop,
        )
    except (Exception, SystemExit) as error:  # users' code may end itself
        with contextlib.suppress(OSError, ValueError):
            return read_sealed(job.folder / "result.json")
        return failed_result(job.config, f"{type(error).__name__}: {error}")


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


@contextlib.contextmanager
def _alone_in(folder: Path, stop: StopFlag) -> Iterator[bool]:
    """Hold a run's folder; wait for a process that still saves its last checkpoint there.

    Yields:
        Whether it is held: False if ``stop`` was set while waiting.
    """
    with contextlib.ExitStack() as held:
        alone = False
        while not alone and not stop.is_set:
            with contextlib.suppress(BlockingIOError):
                held.enter_context(locked(folder / ".lock", wait=_SECONDS_BETWEEN_TRIES))
                alone = True
        yield alone


def failed_result(config: RunConfig, error: str, status: str = "failed") -> dict[str, Any]:
    """Return the result of a run that ended before it could write one."""
    names = ("run_id", "test_accuracy", "test_loss", "train_loss", "mean_keep", "charged_flops")
    more = ("reference_flops", "full_flops", "seconds", "steps", "weights_sha256", "val_accuracy")
    return {
        "policy": config.policy,
        "seed": config.seed,
        "dataset": config.dataset,
        "learner": config.learner,
        **dict.fromkeys((*names, *more)),
        "seconds_by_phase": {},
        "history": [],
        "status": status,
        "error": error,
    }


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
