"""Many runs: what they need beforehand, and who does them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gstds.train.comparing.comparison import Comparison
from gstds.train.launching.jobs import Ended, Job, Logs, Progress, Watch, run_job
from gstds.train.running.ending import StopFlag
from gstds.train.running.folder import finished_result
from gstds.train.running.setup import make_env, make_run_policy

__all__ = ["Report", "check_place", "prepare", "run_all"]

Report = Callable[[dict[str, Any], bool], None]


def check_place(comparison: Comparison, jobs: Sequence[Job]) -> None:
    """Make sure that a Ray cluster has what the runs need, before anything is prepared.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If a run wants a GPU and the cluster has none, or a node does not see the files.
        ConnectionError: If no cluster answers.
    """
    if comparison.ray:
        from gstds.train.launching.ray_runs import check_cluster

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
    watcher = watch or Watch(progress)
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
        from gstds.train.launching.ray_runs import run_on_ray

        run_on_ray(todo, comparison.ray, ended, watch, stop)
    elif comparison.workers > 1 and todo:
        from gstds.train.launching.workers import run_in_processes

        run_in_processes(todo, comparison.workers, ended, watch, stop)
    else:
        _in_turn(todo, ended, watch, stop)


def _in_turn(todo: Sequence[Job], ended: Ended, watch: Watch, stop: StopFlag) -> None:
    logs = Logs(watch)
    for job in todo:
        if stop.is_set:
            return

        def moved(phase: str, done: int, total: int, job: Job = job) -> None:
            logs.look([job])
            watch.moved(job, phase, done, total)

        ended(job, run_job(job, moved, stop))
