"""Many runs: the jobs, one job done in this process, and who does all of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.sealed import read_sealed
from train.config import RunConfig
from train.mlflow_store import file_lock
from train.run import StopFlag, execute, finished_result
from train.setup import make_env, make_run_policy
from train.watch import ProgressWatch, Watch

if TYPE_CHECKING:
    from train.compare import Comparison

__all__ = ["Job", "Progress", "Report", "check_place", "failed_result", "prepare", "run_all"]
__all__ += ["run_job"]

Progress = Callable[[str, int, int], None]
Report = Callable[[dict[str, Any], bool], None]
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
    from train.tracking import MlflowTracker

    tracker = None
    if job.tracking:
        tracker = MlflowTracker(
            job.tracking, job.experiment, spool=job.folder / "spool", patient=True
        )
    begun = (job.folder / "config.json").exists()
    try:
        return execute(
            job.config,
            job.folder,
            tracker=tracker,
            resume=begun,
            checkpoint_every=job.checkpoint_every,
            tags=job.tags,
            progress=progress,
            evaluated=evaluated,
            command=job.command,
            stop=stop,
        )
    except Exception as error:
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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as handle, contextlib.ExitStack() as held:
        alone = False
        while not alone and not stop.is_set:
            try:
                held.enter_context(file_lock(handle, wait=False))
                alone = True
            except BlockingIOError:
                time.sleep(_SECONDS_BETWEEN_TRIES)
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


def check_place(comparison: Comparison, jobs: Sequence[Job]) -> None:
    """Make sure that a Ray cluster has what the runs need, before anything is prepared.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If a run wants a GPU and the cluster has none, or a node does not see the files.
        ConnectionError: If no cluster answers.
    """
    if comparison.ray:
        from train.ray_runs import check_cluster

        check_cluster(comparison.ray, jobs)


def prepare(jobs: Sequence[Job], progress: Progress | None) -> None:
    """Load data and reference once, for each kind of need, before the first run starts.

    Raises:
        ValueError: If data, reference or an option of the environment is unusable.
        OSError: If a file cannot be read or written.
    """
    seen = set()
    for job in jobs:
        if job.label not in seen and finished_result(job.folder) is None:
            seen.add(job.label)
            config = job.config.with_options(device="auto") if job.elsewhere else job.config
            make_env(config, make_run_policy(config), progress).close()


def run_all(
    jobs: Sequence[Job],
    comparison: Comparison,
    progress: Progress | None,
    report: Report,
    stop: StopFlag,
    watch: Watch | None = None,
) -> dict[Path, dict[str, Any]]:
    """Do the runs that are not done yet, and return the results of all by folder.

    Args:
        jobs: The runs.
        comparison: Says how many processes, or which Ray cluster.
        progress: Called with a run's phase, what is done, and the total.
        report: Called with each result and whether it was there before.
        stop: Looked at between steps.
        watch: Is told what happens; None for ``progress`` alone.
    """
    watcher = watch or ProgressWatch(progress)
    results: dict[Path, dict[str, Any]] = {}

    def ended(job: Job, result: dict[str, Any], old: bool = False) -> None:
        results[job.folder] = {**result, "policy": job.label}
        watcher.ended(job, results[job.folder], old)
        report(results[job.folder], old)

    watcher.expect(jobs)
    for job in jobs:
        before = finished_result(job.folder)
        if before:
            ended(job, before, True)
    _do([job for job in jobs if job.folder not in results], comparison, ended, watcher, stop)
    return results


def _do(
    todo: Sequence[Job], comparison: Comparison, ended: Ended, watch: Watch, stop: StopFlag
) -> None:
    if comparison.ray and todo:
        from train.ray_runs import run_on_ray

        run_on_ray(todo, comparison.ray, ended, watch, stop)
    elif comparison.workers > 1 and todo:
        from train.workers import run_in_processes

        run_in_processes(todo, comparison.workers, ended, watch, stop)
    else:
        _in_turn(todo, ended, watch, stop)


def _in_turn(todo: Sequence[Job], ended: Ended, watch: Watch, stop: StopFlag) -> None:
    for job in todo:
        if stop.is_set:
            return

        def moved(phase: str, done: int, total: int, job: Job = job) -> None:
            watch.moved(job, phase, done, total)

        def evaluated(row: dict[str, Any], job: Job = job) -> None:
            watch.evaluated(job, row)

        ended(job, run_job(job, moved, stop, evaluated))
