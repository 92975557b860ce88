"""Many runs one after the other or in worker processes: the jobs, and who does them when."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.config import RunConfig
from train.run import StopFlag, execute, finished_result
from train.setup import make_env, make_run_policy

if TYPE_CHECKING:
    from train.compare import Comparison

__all__ = ["Job", "Progress", "Report", "prepare", "run_all", "run_job"]

Progress = Callable[[str, int, int], None]
Report = Callable[[dict[str, Any], bool], None]


@dataclass(frozen=True)
class Job:
    """One run of a comparison."""

    config: RunConfig
    folder: Path
    tracking: str | None
    experiment: str
    tags: dict[str, str]
    checkpoint_every: int
    command: str
    threads: int


def run_job(job: Job, progress: Progress | None = None, stop: StopFlag | None = None) -> Any:
    """Do one run, or go on with it; a failed run is a result too."""
    import torch

    from train.tracking import MlflowTracker

    torch.set_num_threads(job.threads)
    tracker = None
    if job.tracking:
        tracker = MlflowTracker(job.tracking, job.experiment, spool=job.folder / "spool")
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
            command=job.command,
            stop=stop,
        )
    except Exception as error:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((job.folder / "result.json").read_text())
        return _failed(job.config, error)


def _failed(config: RunConfig, error: Exception) -> dict[str, Any]:
    """Return the result of a run that failed before it could write one."""
    names = ("run_id", "test_accuracy", "test_loss", "train_loss", "mean_keep", "charged_flops")
    more = ("reference_flops", "full_flops", "seconds", "steps", "weights_sha256")
    return {
        "policy": config.policy,
        "seed": config.seed,
        "dataset": config.dataset,
        "learner": config.learner,
        **dict.fromkeys((*names, *more)),
        "seconds_by_phase": {},
        "history": [],
        "status": "failed",
        "error": f"{type(error).__name__}: {error}",
    }


def _worker(job: Job, folder: str) -> Any:
    if folder not in sys.path:
        sys.path.append(folder)
    return run_job(job, stop=StopFlag())


def prepare(jobs: Sequence[Job], progress: Progress | None) -> None:
    """Load data and reference once, for each kind of need, before the first run starts.

    Raises:
        ValueError: If data, reference or an option of the environment is unusable.
        OSError: If a file cannot be read or written.
    """
    seen = set()
    for job in jobs:
        if job.config.policy not in seen and finished_result(job.folder) is None:
            seen.add(job.config.policy)
            make_env(job.config, make_run_policy(job.config), progress).close()


def run_all(
    jobs: Sequence[Job],
    comparison: Comparison,
    progress: Progress | None,
    report: Report,
    stop: StopFlag,
) -> dict[Path, dict[str, Any]]:
    results: dict[Path, dict[str, Any]] = {}
    for job in jobs:
        old = finished_result(job.folder)
        if old:
            results[job.folder] = old
            report(old, True)
    todo = [job for job in jobs if job.folder not in results]
    run = _in_processes if comparison.workers > 1 else _in_turn
    run(todo, comparison.workers, results, progress, report, stop)
    return results


def _in_turn(
    todo: Sequence[Job],
    workers: int,
    results: dict[Path, dict[str, Any]],
    progress: Progress | None,
    report: Report,
    stop: StopFlag,
) -> None:
    for job in todo:
        if stop.is_set:
            return
        label = f"{job.config.policy} seed {job.config.seed}"

        def labeled(phase: str, done: int, total: int, label: str = label) -> None:
            if progress:
                progress(f"{label} {phase}", done, total)

        results[job.folder] = run_job(job, labeled, stop)
        report(results[job.folder], False)


def _in_processes(
    todo: Sequence[Job],
    workers: int,
    results: dict[Path, dict[str, Any]],
    progress: Progress | None,
    report: Report,
    stop: StopFlag,
) -> None:
    here = str(Path.cwd())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: dict[Future[Any], Job] = {pool.submit(_worker, job, here): job for job in todo}
        while waiting:
            finished, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                job = waiting.pop(future)
                try:
                    results[job.folder] = future.result()
                except Exception as error:  # a killed worker is a failed run
                    results[job.folder] = _failed(job.config, error)
                report(results[job.folder], False)
                if progress:
                    progress("runs", len(todo) - len(waiting), len(todo))
            if stop.is_set:
                for process in active_children():
                    process.terminate()  # SIGTERM: each worker saves a checkpoint and ends
                pool.shutdown(wait=True, cancel_futures=True)
                return
