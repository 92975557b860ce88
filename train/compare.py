"""Many runs side by side: policies × seeds, one after the other or in worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from gstds.files import write_json
from gstds.validation import check_integer
from train.config import RunConfig, run_folder
from train.controls import Controls, plan_controls
from train.mlflow_store import prepare_store
from train.run import StopFlag, execute, finished_result
from train.setup import make_env, make_run_policy, with_paper_defaults
from train.statistics import paired_rows, summarize, summarize_controls

__all__ = ["Comparison", "compare", "hardware", "plan", "versions"]

Progress = Callable[[str, int, int], None]
Report = Callable[[dict[str, Any], bool], None]


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        base: The options that all runs share.
        policies: Names of policies.
        seeds: Number of seeds; they are 0 … seeds - 1.
        baseline: The policy that the others are tested against.
        name: Tag of the comparison in the tracking store.
        folder: Where everything goes.
        tracking: URI of the tracking store, None for no tracking.
        experiment: The tracking store's experiment.
        workers: Number of processes.
        checkpoint_every: Steps between checkpoints.
        command: The command that asked for it.
        paper_defaults: Give each policy its paper's schedule and parameters, not the comparison's.
        controls: Run the automatic controls too.
    """

    base: RunConfig
    policies: tuple[str, ...]
    seeds: int
    baseline: str
    name: str
    folder: Path
    tracking: str | None
    experiment: str
    workers: int = 1
    checkpoint_every: int = 200
    command: str = ""
    paper_defaults: bool = False
    controls: bool = True


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


def plan(comparison: Comparison) -> list[Job]:
    """Return the comparison's runs, seed by seed, so that policies can be compared early.

    Raises:
        ValueError: If there are no policies or seeds, one is named twice, or one is unknown.
    """
    check_integer("seeds", comparison.seeds, low=1)
    check_integer("workers", comparison.workers, low=1)
    if not comparison.policies:
        raise ValueError("policies must name at least one policy")
    twice = {p for p in comparison.policies if comparison.policies.count(p) > 1}
    if twice:
        raise ValueError(f"policies must be named once each, got {sorted(twice)} more than once")
    if comparison.baseline not in comparison.policies:
        raise ValueError(
            f"baseline must be one of the compared policies "
            f"({', '.join(comparison.policies)}), got {comparison.baseline!r}"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // comparison.workers)
    jobs = []
    for seed in range(comparison.seeds):
        for policy in comparison.policies:
            config = comparison.base.with_options(policy=policy, seed=seed)
            if comparison.paper_defaults:
                config = with_paper_defaults(config)
            make_run_policy(config)
            jobs.append(
                Job(
                    config=config,
                    folder=run_folder(comparison.folder, config),
                    tracking=comparison.tracking,
                    experiment=comparison.experiment,
                    tags={"comparison": comparison.name},
                    checkpoint_every=comparison.checkpoint_every,
                    command=comparison.command,
                    threads=threads,
                )
            )
    return jobs


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


def compare(
    comparison: Comparison,
    *,
    progress: Progress | None = None,
    report: Report | None = None,
    stop: StopFlag | None = None,
) -> dict[str, Any]:
    """Run a comparison; runs that its folder holds already are not repeated.

    Args:
        comparison: What to compare.
        progress: Called with a phase, what is done, and the total.
        report: Called with each result and whether it was there before.
        stop: Looked at between steps.

    Returns:
        The content of the JSON file: ``runs``, ``summary``, ``controls``, and how they were made.

    Raises:
        ValueError: If an option is unknown or out of range.
        OSError: If a file cannot be read or written.
    """
    stop = stop or StopFlag()
    jobs = plan(comparison)
    prepare(jobs, progress)
    if comparison.tracking:
        prepare_store(comparison.tracking, comparison.experiment)
    report = report or (lambda result, old: None)
    results = _run_all(jobs, comparison, progress, report, stop)
    controls = None if comparison.controls else Controls()
    if comparison.controls and not stop.is_set:
        controls = plan_controls(jobs, results, comparison.baseline)
        prepare(controls.jobs, progress)
        results |= _run_all(controls.jobs, comparison, progress, report, stop)
    done = [results[job.folder] for job in jobs if job.folder in results]
    return finish(comparison, done, len(jobs), controls, results)


def finish(
    comparison: Comparison,
    runs: list[dict[str, Any]],
    planned: int,
    controls: Controls | None = None,
    results: Mapping[Path, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Summarize runs and controls, and write ``comparison.json``.

    Args:
        comparison: What was compared.
        runs: The results of its runs.
        planned: How many were planned.
        controls: Its controls; None if it did not come to planning them.
        results: The results of the controls by folder; those of others are passed over.
    """
    baseline = comparison.baseline
    complete = any(run["policy"] == baseline for run in runs)
    count = None if controls is None else len(controls.jobs)
    controls, results = controls or Controls(), results or {}
    beside = [results[job.folder] for job in controls.jobs if job.folder in results]
    everything = [*runs, *beside]
    content = {
        "version": 1,
        "name": comparison.name,
        "baseline": baseline,
        "command": comparison.command,
        "setting": comparison.base.setting,
        "config": comparison.base.as_dict(),
        "planned": planned,
        "runs": runs,
        "summary": summarize(runs, baseline) if complete else [],
        "controls": beside,
        "controls_summary": summarize_controls(runs, beside, baseline) if complete else [],
        "controls_planned": count,
        "against_controls": paired_rows(everything, controls.compared(comparison.base.setting)),
        "versions": versions(),
        "hardware": hardware(),
    }
    write_json(comparison.folder / "comparison.json", content)
    return content


def _run_all(
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


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    names = ("gstds", "torch", "torchvision", "numpy", "scipy", "gymnasium", "mlflow")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def hardware() -> dict[str, Any]:
    """Return what the machine is, in words."""
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {"processor": name, "cores": os.cpu_count(), "gpu": gpu}
