"""Many runs side by side: policies × seeds, one after the other or in worker processes."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import write_sealed
from gstds.train.comparing.comparison import Comparison
from gstds.train.comparing.controls import SHORT_FULL, Controls, plan_controls
from gstds.train.comparing.fan_out import Report, check_place, prepare, run_all
from gstds.train.comparing.variants import split_name, variant_config
from gstds.train.figures.statistics import paired_rows, summarize, summarize_controls
from gstds.train.launching.jobs import Job, Progress, Watch, run_job
from gstds.train.launching.workers import warm_up
from gstds.train.running.options import identity, run_folder
from gstds.train.running.run import StopFlag, finished_result
from gstds.train.running.setup import make_run_policy, with_paper_defaults

__all__ = ["Comparison", "Job", "compare", "hardware", "plan", "plan_run", "run_job", "versions"]


def plan(comparison: Comparison) -> list[Job]:
    """Return the comparison's runs, seed by seed, so that policies can be compared early.

    Raises:
        ValueError: If there are no policies or seeds, one is named twice, or one is unknown.
    """
    if not comparison.policies:
        raise ValueError("policies must name at least one policy")
    twice = {p for p in comparison.policies if comparison.policies.count(p) > 1}
    if twice:
        raise ValueError(f"policies must be named once each, got {sorted(twice)} more than once")
    if SHORT_FULL in comparison.policies:
        raise ValueError(
            f"policies: {SHORT_FULL!r} is a control and comes by itself unless controls are off; "
            "drop it, or name full with fewer epochs: full@epochs=8"
        )
    if comparison.baseline not in comparison.policies:
        raise ValueError(
            f"baseline must be one of the compared policies "
            f"({', '.join(comparison.policies)}), got {comparison.baseline!r}"
        )
    if comparison.ray and comparison.workers > 1:
        raise ValueError("workers are processes of this machine; Ray decides by itself: drop one")
    seeds = range(comparison.first_seed, comparison.first_seed + comparison.seeds)
    jobs = [plan_run(comparison, policy, seed) for seed in seeds for policy in comparison.policies]
    _refuse_one_run_under_two_names(jobs)
    return jobs


def _refuse_one_run_under_two_names(jobs: list[Job]) -> None:
    rows: dict[str, str] = {}
    for job in jobs:
        other = rows.setdefault(identity(job.config), job.label)
        if other != job.label:
            raise ValueError(
                f"policies {other!r} and {job.label!r} are the same run with all options spelled "
                "out; drop one"
            )


def plan_run(comparison: Comparison, row: str, seed: int) -> Job:
    """Return one run of a comparison.

    Args:
        comparison: What is compared.
        row: A policy or a variant.
        seed: The run's seed.

    Raises:
        ValueError: If the policy or an option is unknown or out of range.
    """
    base = comparison.base.with_options(policy=split_name(row)[0], seed=seed)
    if comparison.paper_defaults:
        base = with_paper_defaults(base)
    config = variant_config(base, row)
    make_run_policy(config)
    return Job(
        label=row,
        config=config,
        folder=run_folder(comparison.folder, config, row),
        tracking=comparison.tracking,
        experiment=comparison.experiment,
        tags={"comparison": comparison.name, "policy": row},
        checkpoint_every=comparison.checkpoint_every,
        command=comparison.command,
        threads=_threads(comparison),
        elsewhere=comparison.ray is not None,
    )


def _threads(comparison: Comparison) -> int:
    if comparison.threads is not None:
        return comparison.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if comparison.ray else max(1, (cores or 1) // comparison.workers)


def compare(
    comparison: Comparison,
    *,
    progress: Progress | None = None,
    report: Report | None = None,
    stop: StopFlag | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Run a comparison; runs that its folder holds already are not repeated.

    Args:
        comparison: What to compare.
        progress: Called with a phase, what is done, and the total.
        report: Called with each result and whether it was there before.
        stop: Looked at between steps.
        watch: Is told how the runs go on; None for ``progress`` alone.

    Returns:
        The content of the JSON file: ``runs``, ``summary``, ``controls``, and how they were made.

    Raises:
        ValueError: If an option is unknown or out of range.
        OSError: If a file cannot be read or written.
    """
    stop = stop or StopFlag()
    jobs = plan(comparison)
    check_place(comparison, jobs)
    todo = [job for job in jobs if finished_result(job.folder) is None]
    if comparison.workers > 1 and todo and not comparison.ray:
        warm_up(_threads(comparison))
    prepare(jobs, progress)
    comparison.check_store()
    report = report or (lambda result, old: None)
    results = run_all(jobs, comparison, progress, report, stop, watch)
    controls = None if comparison.controls else Controls()
    if comparison.controls and not stop.is_set:
        controls = plan_controls(jobs, results, str(comparison.baseline))
        prepare(controls.jobs, progress)
        results |= run_all(controls.jobs, comparison, progress, report, stop, watch)
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
    baseline = str(comparison.baseline)
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
    write_sealed(comparison.folder / "comparison.json", content)
    return content


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    names = ("gstds", "torch", "torchvision", "numpy", "scipy", "gymnasium", "mlflow")
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that was put on the path, not installed
        return "not installed"


def hardware() -> dict[str, Any]:
    """Return what the machine is, in words."""
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {"processor": name, "cores": os.cpu_count(), "gpu": gpu}
