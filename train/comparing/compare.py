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
from gstds.train.comparing.comparison import Comparison
from gstds.train.comparing.controls import Pair, plan_controls
from gstds.train.comparing.runs import carry_out, do_runs, plan_run, prepare, tuned
from gstds.train.comparing.sweep import Tuning, tune, tuning_axes
from gstds.train.figures.plots import SHORT_FULL
from gstds.train.figures.statistics import paired_rows, summarize, summarize_controls
from gstds.train.figures.tables import Table, judged_on, points
from gstds.train.launching.jobs import Job, Jobs, Watch
from gstds.train.running.ending import StopFlag
from gstds.train.running.options import dataset_folder, identity
from gstds.train.tracking.uploader import add_network


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
    missing = _missing(comparison, plan(comparison), watch)
    there = tuple(row for row in comparison.policies if row not in missing)
    tuning = tune(replace(comparison, policies=there), watch, stop) if comparison.tune else Tuning()
    jobs = [job for job in plan(comparison, tuning.values) if job.label in there]
    results = carry_out(jobs, comparison, watch, stop)
    beside: list[Job] | None = None if comparison.controls else []
    pairs: list[Pair] = []
    if comparison.controls and not stop.is_set:
        keys = [axis.key for axis in tuning.axes]
        beside, pairs = plan_controls(jobs, results, str(comparison.baseline), keys)
        beside = [tuned(job, tuning.values.get(job.label, {})) for job in beside]
        prepare(beside, watch)
        results |= do_runs(beside, comparison, watch, stop)
    count = None if beside is None else len(beside)
    if comparison.tracking and not (comparison.no_model or stop.is_set):
        _add_networks(comparison, {job.folder: results[job.folder] for job in jobs})

    def of(several: Jobs) -> list[dict[str, Any]]:
        return [results[job.folder] for job in several if job.folder in results]

    timed = _timed_together(comparison.folder, [run["run_id"] for run in results.values()])
    done = (of(jobs), len(jobs), of(beside or ()), count)
    return finish(comparison, *done, pairs, missing, timed, tuning)


def _timed_together(folder: Path, runs: Sequence[str]) -> bool:
    """Return whether one command trained all of a comparison's runs; note who trained which."""
    path, before = folder / "timed.json", {}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(path.read_text())
    timed = {run: before.get(run, len(set(before.values()))) for run in runs}
    write_json(path, timed)
    return len(set(timed.values())) < 2


def plan(
    comparison: Comparison, values: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Job]:
    """Return the comparison's runs, seed by seed, so that policies can be compared early.

    Args:
        comparison: What is compared.
        values: By row: values of keys that tuning chose.

    Raises:
        ValueError: If there are no policies or seeds, one is named twice, one is unknown, or what
            is to be tuned is no grid of what every row has.
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
    if values is None:
        tuning_axes(comparison)
    jobs = [plan_run(comparison, row, seed) for seed in comparison.every_seed for row in policies]
    jobs = [tuned(job, (values or {}).get(job.label, {})) for job in jobs]
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


def _missing(comparison: Comparison, jobs: Jobs, watch: Watch) -> dict[str, str]:
    """Return the optional rows that cannot be prepared, and why."""
    missing = {}
    for row in comparison.optional:
        try:
            prepare([job for job in jobs if job.label == row], watch)
        except (ValueError, OSError, ImportError) as error:
            missing[row] = " ".join(str(error).split())
    return missing


def _add_networks(comparison: Comparison, results: Mapping[Path, Any]) -> None:
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
    tuning: Tuning | None = None,
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
        tuning: The trials, and what they chose.
    """
    baseline = str(comparison.baseline)
    complete = any(run["policy"] == baseline for run in runs)
    base, beside = comparison.base, list(controls)
    content = comparison.head | {"baseline": baseline, "setting": base.setting}
    content |= {"config": base.as_dict(), "planned": planned, "runs": runs}
    how: dict[str, Any] = {"timed": timed, "margin": comparison.margin / 100}
    how["own_splits"] = comparison.splits == "per-seed"
    content["summary"] = summarize(runs, baseline, **how) if complete else []
    content |= {"controls": beside, "controls_planned": controls_planned}
    judged = summarize_controls(runs, beside, baseline, **how) if complete else []
    content["controls_summary"] = judged
    content["against_controls"] = paired_rows([*runs, *beside], pairs, comparison.margin / 100)
    for row in (*content["summary"], *judged) if comparison.tune and tuning else ():
        row["tuned"] = dict(tuning.values.get(row["policy"], {}))
        row["trials"] = sum(trial["row"] == row["policy"] for trial in tuning.trials)
    if comparison.tune and tuning:
        content["tuning"] = tuning.as_dict
    content |= {"versions": versions(), "hardware": hardware()}
    preset: dict[str, Any] = {"question": comparison.question, "left_out": dict(left_out or {})}
    preset["splits"] = comparison.splits if how["own_splits"] else ""
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
        prepare([plan_run(one, "full", one.first_seed)], Watch())
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
        cost = row["relative_compute_with_reference"]
        more = "" if cost is None else f" ({cost:.2f})"
        text = points(row, "mean", ".1f", "ci95") + more
        lines.setdefault(row["policy"], {})[row["dataset"]] = text
    cells = ((name, *(line.get(d, "-") for d in contents)) for name, line in lines.items())
    about = f"Final {judged_on(rows)} accuracy in %, mean ± 95% t interval over seeds, and in "
    about += "brackets the compute over full training's, with all of the reference; each data "
    about += "set has a table, tests and a report of its own."
    table = Table(("policy", *contents), tuple(cells), about)
    parts = ["# Overview", comparison.question, f"```\n{comparison.command}\n```"]
    parts += [table.markdown(), table.caption]
    write_text(comparison.folder / "overview.md", "\n\n".join(filter(None, parts)) + "\n")
    return overview, table
