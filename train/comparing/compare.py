"""Many runs side by side: policies × seeds, on one data set or on several."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import write_sealed
from gstds.common.files import write_json, write_text
from gstds.train.comparing.comparison import Comparison, split_name, variant_config
from gstds.train.comparing.controls import Pair, plan_controls
from gstds.train.figures.plots import SHORT_FULL
from gstds.train.figures.statistics import paired_rows, summarize, summarize_controls
from gstds.train.figures.tables import Table, judged_on, points
from gstds.train.launching import jobs as launcher
from gstds.train.launching.jobs import Job, Jobs, Logs, Watch
from gstds.train.running.ending import StopFlag
from gstds.train.running.folder import finished_result
from gstds.train.running.options import dataset_folder, identity, run_folder
from gstds.train.running.setup import make_env, make_run_policy, with_paper_defaults
from gstds.train.tracking.uploader import add_network

Results = dict[Path, dict[str, Any]]


def compare(
    comparison: Comparison, *, watch: Watch | None = None, stop: StopFlag | None = None
) -> dict[str, Any]:
    """Run a comparison; runs that its folder holds already are not repeated.

    Args:
        comparison: What to compare.
        watch: Is told how it goes on.
        stop: Looked at between steps.

    Returns:
        The content of the JSON file: ``runs``, ``summary``, ``controls``, and how they were made;
        of a preset also its ``question`` and, in ``left_out``, rows that could not be run, and why.

    Raises:
        ValueError: If an option is unknown or out of range.
        OSError: If a file cannot be read or written.
    """
    watch, stop = watch or Watch(), stop or StopFlag()
    jobs = plan(comparison)
    missing = _missing(comparison, jobs, watch)
    jobs = [job for job in jobs if job.label not in missing]
    results = carry_out(jobs, comparison, watch, stop)
    beside: list[Job] | None = None if comparison.controls else []
    pairs: list[Pair] = []
    if comparison.controls and not stop.is_set:
        beside, pairs = plan_controls(jobs, results, str(comparison.baseline))
        _prepare(beside, watch)
        results |= _run(beside, comparison, watch, stop)
    count = None if beside is None else len(beside)
    if comparison.tracking and not (comparison.no_model or stop.is_set):
        _add_networks(comparison, {job.folder: results[job.folder] for job in jobs})

    def of(several: Jobs) -> list[dict[str, Any]]:
        return [results[job.folder] for job in several if job.folder in results]

    timed = _timed_together(comparison.folder, [run["run_id"] for run in results.values()])
    done = (of(jobs), len(jobs), of(beside or ()), count)
    return finish(comparison, *done, pairs, missing, timed)


def _timed_together(folder: Path, runs: Sequence[str]) -> bool:
    """Return whether one command trained all of a comparison's runs; note who trained which."""
    path, before = folder / "timed.json", {}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(path.read_text())
    timed = {run: before.get(run, len(set(before.values()))) for run in runs}
    write_json(path, timed)
    return len(set(timed.values())) < 2


def plan(comparison: Comparison) -> list[Job]:
    """Return the comparison's runs, seed by seed, so that policies can be compared early.

    Raises:
        ValueError: If there are no policies or seeds, one is named twice, or one is unknown.
    """
    policies, baseline = comparison.policies, comparison.baseline
    if not policies:
        raise ValueError("policies must name at least one policy")
    _refuse_twice("policies", policies, policies)
    if SHORT_FULL in policies:
        what = f"{SHORT_FULL!r} is a control and comes by itself unless controls are off"
        mend = "drop it, or name full with fewer epochs: full@epochs=8"
        raise ValueError(f"policies: {what}; {mend}")
    if baseline not in policies:
        found = f"({', '.join(policies)}), got {baseline!r}"
        raise ValueError(f"baseline must be one of the compared policies {found}")
    if comparison.ray and comparison.workers > 1:
        raise ValueError("workers are processes of this machine; Ray decides by itself: drop one")
    jobs = [plan_run(comparison, row, seed) for seed in comparison.every_seed for row in policies]
    rows: dict[str, str] = {}
    for job in jobs:
        other = rows.setdefault(identity(job.config), job.label)
        if other != job.label:
            both = f"policies {other!r} and {job.label!r}"
            raise ValueError(f"{both} are the same run with all options spelled out; drop one")
    return jobs


def _refuse_twice(what: str, words: Sequence[str], keys: Sequence[Any]) -> None:
    twice = {word for word, key in zip(words, keys, strict=True) if keys.count(key) > 1}
    if twice:
        raise ValueError(f"{what} must be named once each, got {sorted(twice)} more than once")


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
    folder = run_folder(comparison.folder, config, row)
    record = {name: getattr(comparison, name) for name in launcher.RECORD}
    record["tags"] = {"comparison": comparison.name, "policy": row}
    threads, elsewhere = _threads(comparison), comparison.ray is not None
    return Job(row, config, folder, threads=threads, elsewhere=elsewhere, **record)


def _threads(comparison: Comparison) -> int:
    if comparison.threads is not None:
        return comparison.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if comparison.ray else max(1, (cores or 1) // comparison.workers)


def _missing(comparison: Comparison, jobs: Jobs, watch: Watch) -> dict[str, str]:
    """Return the optional rows that cannot be prepared, and why."""
    missing = {}
    for row in comparison.optional:
        try:
            _prepare([job for job in jobs if job.label == row], watch)
        except (ValueError, OSError, ImportError) as error:
            missing[row] = " ".join(str(error).split())
    return missing


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
    _prepare(jobs, watch)
    return _run(jobs, comparison, watch, stop)


def _prepare(jobs: Jobs, watch: Watch) -> None:
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


def _run(jobs: Jobs, comparison: Comparison, watch: Watch, stop: StopFlag) -> Results:
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


def _add_networks(comparison: Comparison, results: Results) -> None:
    """Ask that networks go into MLflow: of each policy's best run, or of all."""
    chosen: dict[Any, Path] = {}
    for folder, run in sorted(results.items(), key=lambda one: one[1]["val_accuracy"] or 0.0):
        if run["status"] == "finished":
            chosen[folder if comparison.model == "all" else run["policy"]] = folder
    for folder in chosen.values():
        add_network(folder, comparison.tracking)


def finish(
    comparison: Comparison,
    runs: list[dict[str, Any]],
    planned: int,
    controls: Sequence[dict[str, Any]] = (),
    controls_planned: int | None = None,
    pairs: Sequence[Pair] = (),
    left_out: Mapping[str, str] | None = None,
    timed: bool = True,
) -> dict[str, Any]:
    """Summarize runs and controls, and write ``comparison.json``.

    Args:
        comparison: What was compared.
        runs: The results of its runs.
        planned: How many were planned.
        controls: The results of its controls.
        controls_planned: How many were planned; None if it did not come to that.
        pairs: What is tested against a control, as `plan_controls` returns it.
        left_out: Rows that could not be run, and why.
        timed: Whether the runs' seconds may be compared: one command trained them all.
    """
    baseline = str(comparison.baseline)
    complete = any(run["policy"] == baseline for run in runs)
    base, beside = comparison.base, list(controls)
    content = comparison.head | {"baseline": baseline, "setting": base.setting}
    content |= {"config": base.as_dict(), "planned": planned, "runs": runs}
    content["summary"] = summarize(runs, baseline, timed=timed) if complete else []
    content |= {"controls": beside, "controls_planned": controls_planned}
    judged = summarize_controls(runs, beside, baseline, timed=timed) if complete else []
    content["controls_summary"] = judged
    content["against_controls"] = paired_rows([*runs, *beside], pairs)
    content |= {"versions": versions(), "hardware": hardware()}
    preset = {"question": comparison.question, "left_out": dict(left_out or {})}
    content |= {name: value for name, value in preset.items() if value}
    write_sealed(comparison.folder / "comparison.json", content)
    return content


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("gstds", "torch", "torchvision", "numpy", "scipy", "gymnasium", "mlflow"):
        found[name] = "not installed"  # a checkout that was put on the path
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """Return what the machine is, in words."""
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {"processor": name, "cores": os.cpu_count(), "gpu": gpu}


def on_datasets(comparison: Comparison, datasets: Sequence[str]) -> list[Comparison]:
    """Return a comparison on each of several data sets, which are loaded, in a folder of its own.

    Raises:
        ValueError: If a data set is named twice, unknown or unusable.
        OSError: If a file cannot be read.
    """
    every = []
    for dataset in datasets:
        base, name = comparison.base.with_options(dataset=dataset), f"{comparison.name}-{dataset}"
        folder = dataset_folder(comparison.folder, dataset)
        every.append(replace(comparison, base=base, name=name, folder=folder))
    _refuse_twice("datasets", datasets, [one.folder for one in every])
    for one in every if not comparison.question else ():  # a preset's are in its forecast
        _prepare([plan_run(one, "full", one.first_seed)], Watch())
    return every


def write_overview(
    comparison: Comparison, contents: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], Table]:
    """Write ``overview.json`` and ``overview.md``; return what they hold.

    Args:
        comparison: Policies, options, seeds and folder.
        contents: The content of each data set's comparison.

    Raises:
        OSError: If a file cannot be written.
    """
    rows = [{**row, "dataset": d} for d, content in contents.items() for row in content["summary"]]
    runs = [run for content in contents.values() for run in content["runs"]]
    overview = comparison.head | {"baseline": comparison.baseline, "datasets": list(contents)}
    overview |= {"runs": runs, "summary": rows}
    write_json(comparison.folder / "overview.json", overview)
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        lines.setdefault(row["policy"], {})[row["dataset"]] = points(row, "mean", ".1f", "ci95")
    cells = ((name, *(line.get(d, "-") for d in contents)) for name, line in lines.items())
    about = f"Final {judged_on(rows)} accuracy in %, mean ± 95% t interval over seeds; each data "
    about += "set has a table, tests and a report of its own."
    table = Table(("policy", *contents), tuple(cells), about)
    parts = ["# Overview", comparison.question, f"```\n{comparison.command}\n```"]
    parts += [table.markdown(), table.caption]
    write_text(comparison.folder / "overview.md", "\n\n".join(filter(None, parts)) + "\n")
    return overview, table
