"""Runs of a comparison by their row and seed: what each is, and having them done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gstds.train.comparing.comparison import (
    Comparison,
    options_of,
    split_name,
    variant_config,
)
from gstds.train.launching import jobs as launcher
from gstds.train.launching.jobs import Job, Jobs, Logs, Watch
from gstds.train.running.ending import StopFlag
from gstds.train.running.folder import finished_result
from gstds.train.running.options import RunConfig, run_folder
from gstds.train.running.setup import make_env, make_run_policy, with_paper_defaults

Results = dict[Path, dict[str, Any]]


def plan_run(comparison: Comparison, row: str, seed: int) -> Job:
    """Return one run of a comparison.

    Args:
        comparison: What is compared.
        row: A policy or a variant.
        seed: The run's seed.

    Raises:
        ValueError: If the policy or an option is unknown or out of range.
    """
    own = comparison.base.split_seed + seed * (comparison.splits == "per-seed")
    base = comparison.base.with_options(policy=split_name(row)[0], seed=seed, split_seed=own)
    if comparison.paper_defaults:
        base = with_paper_defaults(base)
    config = variant_config(base, row)
    make_run_policy(config)
    folder = run_folder(comparison.folder, config, row)
    record = {name: getattr(comparison, name) for name in launcher.RECORD}
    record["tags"] = {"comparison": comparison.name, "policy": row}
    threads, elsewhere = _threads(comparison), comparison.ray is not None
    return Job(row, config, folder, threads=threads, elsewhere=elsewhere, **record)


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return a run's options with other values of some keys.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a key is unknown, or a value is out of range.
    """
    config = config.with_options(**options_of(config, config.policy, values))
    make_run_policy(config)
    return config


def tuned(job: Job, values: Mapping[str, Any], label: str | None = None) -> Job:
    """Return a run with other values of some keys, in another row if ``label`` names one.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a key is unknown, or a value is out of range.
    """
    if not values:
        return job
    config, row = with_values(job.config, values), label or job.label
    folder = run_folder(job.folder.parent.parent, config, row)
    return replace(job, label=row, config=config, folder=folder, tags=job.tags | {"policy": row})


def _threads(comparison: Comparison) -> int:
    if comparison.threads is not None:
        return comparison.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if comparison.ray else max(1, (cores or 1) // comparison.workers)


def carry_out(jobs: Jobs, comparison: Comparison, watch: Watch, stop: StopFlag) -> Results:
    """Do the runs that are not done yet, and return the results of all by folder.

    What they need is looked at and prepared first: the Ray cluster, data and reference, the store.

    Args:
        jobs: The runs.
        comparison: Says how many processes, or which Ray cluster.
        watch: Is told what happens.
        stop: Looked at between steps.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If data, reference or an option of the environment is unusable, a run wants a
            GPU and the cluster has none, or a node does not see the files.
        ConnectionError: If no cluster answers.
        OSError: If a file cannot be read or written.
    """
    if comparison.ray:
        from gstds.train.launching.ray_tasks import check_cluster

        check_cluster(comparison.ray, jobs)
    elif comparison.workers > 1 and any(finished_result(job.folder) is None for job in jobs):
        launcher.warm_up(_threads(comparison))
    prepare(jobs, watch)
    return do_runs(jobs, comparison, watch, stop)


def prepare(jobs: Jobs, watch: Watch) -> None:
    """Load data and reference once, for each kind of need, before the first run starts."""
    from gstds.envs.data.datasets import describe

    def tell(env: Any) -> None:
        watch.note(describe(env.data))

    first: dict[str, Job] = {}
    for job in jobs:
        if finished_result(job.folder) is None:
            first.setdefault(job.label, job)
    for job in first.values():
        config = job.config.with_options(device="auto") if job.elsewhere else job.config
        make_env(config, make_run_policy(config), watch, before_reference=tell).close()


def do_runs(jobs: Jobs, comparison: Comparison, watch: Watch, stop: StopFlag) -> Results:
    """Do the runs that are not done yet; arguments and result as for `carry_out`."""
    results: Results = {}

    def ended(job: Job, result: dict[str, Any], old: bool = False) -> None:
        results[job.folder] = {**result, "policy": job.label}
        watch.ended(job, results[job.folder], old)

    watch.expect(jobs)
    for job in jobs:
        if before := finished_result(job.folder):
            ended(job, before, True)
    todo = [job for job in jobs if job.folder not in results]
    if comparison.ray and todo:
        from gstds.train.launching.ray_tasks import run_on_ray

        run_on_ray(todo, comparison.ray, ended, watch, stop)
    elif comparison.workers > 1 and todo:
        launcher.run_in_processes(todo, comparison.workers, ended, watch, stop)
    else:
        logs = Logs(watch)
        for job in todo:

            def moved(phase: str, done: int, total: int, job: Job = job) -> None:
                logs.look([job])
                watch.moved(job, phase, done, total)

            if not stop.is_set:
                ended(job, launcher.run_job(job, moved, stop))
    return {job.folder: results[job.folder] for job in jobs if job.folder in results}
