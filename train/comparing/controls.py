"""The controls that every comparison gets by itself.

Each policy is set beside random samples with the same keep sequence, which says whether it matters
*which* samples it keeps, and beside full training that is over when the baseline's compute is
spent, which says whether dropping samples is better than stopping early. Controls come after the
runs, because they repeat what the runs did.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gstds.options.fields import names
from gstds.policies.registry import REPLAY
from gstds.policies.uninformed.replay import encode_sequence
from gstds.selection.schedules import Schedule
from gstds.selection.weights import kept_count
from gstds.train.comparing.comparison import split_name
from gstds.train.figures.plots import SHORT_FULL
from gstds.train.launching.jobs import Job, Jobs
from gstds.train.running.kept import Kept, read_kept
from gstds.train.running.options import RunConfig, run_folder
from gstds.train.running.setup import make_run_schedule

_log = logging.getLogger(__name__)

_NEED_NONE = ("random", "full", SHORT_FULL)
_OWN_OPTIONS: dict[str, Any] = {"picker": None, "score": None, "weighting": None}
_OWN_OPTIONS |= {"shards": 1, "charge_reference": False}
Results = Mapping[Path, Mapping[str, Any]]
Pair = tuple[str, str, str]


@dataclass(frozen=True)
class _Finished:
    """A finished run, what it kept, and whether that was what its schedule says."""

    job: Job
    result: Mapping[str, Any]
    kept: Kept
    on_schedule: bool

    @property
    def sequence(self) -> tuple[Any, ...]:
        """What tells the run's keep sequence from others."""
        progress = b""
        if self.job.config.setting == "equal-budget" and self.kept.progress is not None:
            progress = self.kept.progress.tobytes()
        return (self.job.config.seed, self.kept.counts.tobytes(), progress)


def plan_controls(
    jobs: Jobs, results: Results, baseline: str, tuned: Collection[str] = ()
) -> tuple[list[Job], list[Pair]]:
    """Return the control runs of a comparison whose runs are done, and what they are set beside.

    A row that follows its schedule has the keep sequence of ``random`` on that schedule. If such a
    row of random samples is compared, it is the control; if all rows have the same schedule and
    training, ``random`` is run once for all of them. Of the others each gets random samples with
    its own realized sequence; equal sequences under equal training share a control.

    Args:
        jobs: The comparison's runs.
        results: Their results, by folder.
        baseline: The row whose compute short full training gets.
        tuned: Keys that every row and control has values of its own for.

    Returns:
        The control runs; and (row, its control, what both have in common), for the tests between
        them. A control is a control run's row, or one of random samples that is compared itself.
    """
    names = {job.label: job.config.policy for job in jobs}
    runs: dict[str, list[_Finished]] = {name: [] for name in names}
    for run in _finished(jobs, results):
        runs[run.job.label].append(run)
    randoms = _random_rows(jobs, tuned)
    pairs: dict[str, str] = {}
    alike: dict[Any, list[str]] = {}
    for name, group in runs.items():
        if group and names[name] not in _NEED_NONE:
            random = randoms.get(_schedule_and_training(group[0].job, tuned))
            if random and all(run.on_schedule for run in group):
                pairs[name] = random
            else:
                same = (_training(group[0].job, tuned), *(run.sequence for run in group))
                alike.setdefault(same, []).append(name)
    planned = []
    if "random" not in names and "random" in pairs.values():
        by_seed = {run.job.config.seed: run.job for name in pairs for run in runs[name]}
        for job in by_seed.values():
            config = _with_policy(job.config, "random")
            planned.append(_control(job, config, "random", ", ".join(pairs)))
    for same_names in alike.values():
        row = REPLAY + same_names[0]
        pairs |= dict.fromkeys(same_names, row)
        for run in runs[same_names[0]]:
            config = replayed(run.job.config, run.kept)
            planned.append(_control(run.job, config, row, ", ".join(same_names)))
    shorts = _short_fulls(runs, baseline)
    planned = sorted(planned + shorts, key=lambda job: job.config.seed)
    beside = [(name, pairs[name], "keep sequence") for name in names if name in pairs]
    budget = "full" in names and jobs[0].config.setting == "equal-budget"
    if short := SHORT_FULL if shorts else "full" if budget else "":
        beside += [(name, short, "compute") for name in names if split_name(name)[0] != "full"]
    return planned, beside


def follows(kept: Kept, schedule: Schedule, setting: str) -> bool:
    """Say whether every step kept exactly as many samples as the schedule says."""
    steps = len(kept.counts)
    if setting == "equal-epochs":
        progress = np.arange(steps) / steps
    elif kept.progress is None:
        return False
    else:  # a policy sees float32
        progress = np.concatenate([[0.0], kept.progress[:-1]]).astype(np.float32)
    ratios = (schedule(min(1.0, float(p))) for p in progress)
    expected = [kept_count(r, int(n)) for r, n in zip(ratios, kept.sizes, strict=True)]
    return bool(np.array_equal(kept.counts, expected))


def replayed(config: RunConfig, kept: Kept) -> RunConfig:
    """Return the run that keeps as many of each batch as another run did, but at random.

    Args:
        config: The other run's options.
        kept: What it kept.
    """
    parameters = {"ratios": encode_sequence(kept.counts / kept.sizes)}
    if config.setting == "equal-budget" and kept.progress is not None:
        parameters["progress"] = encode_sequence(np.clip(kept.progress, 0.0, 1.0))
    name = REPLAY + config.policy
    return config.with_options(policy=name, policy_params=parameters, **_OWN_OPTIONS)


def _finished(jobs: Jobs, results: Results) -> list[_Finished]:
    found = []
    for job in jobs:
        result = results.get(job.folder, {})
        if result.get("status") != "finished" or not result.get("steps"):
            continue
        try:
            kept = read_kept(job.folder / "kept.npz")
        except OSError as error:
            name = f"policy {job.label!r}, seed {job.config.seed}"
            _log.warning("%s gets no control: %s", name, error)
            continue
        asked = job.config.policy not in _NEED_NONE
        on = asked and follows(kept, make_run_schedule(job.config), job.config.setting)
        found.append(_Finished(job, result, kept, on))
    return found


def _training(job: Job, tuned: Collection[str]) -> str:
    """Return what a run has in common with random samples beside it, but for the schedule."""
    apart: dict[str, Any] = {"seed": 0, "split_seed": 0}
    apart |= {key: getattr(RunConfig(), key) for key in tuned if key in names(RunConfig)}
    apart |= {"schedule": "", "keep": None, "schedule_params": {}}
    config = _with_policy(job.config, "random").with_options(**apart)
    reference = config.reference if config.distill else None
    return json.dumps(config.as_dict() | {"reference": reference}, sort_keys=True, default=str)


def _schedule_and_training(job: Job, tuned: Collection[str]) -> tuple[str, str]:
    config = job.config
    schedule = {"schedule": config.schedule, "keep": config.keep, **config.schedule_params}
    schedule["trust"] = config.policy_params.get("trust", "none")
    return json.dumps(schedule, sort_keys=True, default=str), _training(job, tuned)


def _random_rows(jobs: Jobs, tuned: Collection[str]) -> dict[tuple[str, str], str]:
    """Return the rows of random samples by schedule and training.

    Without one, ``random`` stands for the schedule and training that all rows have, if they do.
    """
    kinds = [(job, _schedule_and_training(job, tuned)) for job in jobs]
    rows = {kind: job.label for job, kind in kinds if job.config.policy == "random"}
    every = {kind for _, kind in kinds}
    return rows or (dict.fromkeys(every, "random") if len(every) == 1 else {})


def _short_fulls(runs: Mapping[str, list[_Finished]], baseline: str) -> list[Job]:
    """Return full training at the compute of the baseline, or of the cheapest if that is full."""
    selective = [name for name in runs if split_name(name)[0] != "full"]
    names = [baseline] if baseline in selective else selective
    cheapest: dict[int, _Finished] = {}
    for run in (run for name in names for run in runs[name]):
        other = cheapest.setdefault(run.job.config.seed, run)
        if run.result["charged_flops"] < other.result["charged_flops"]:
            cheapest[run.job.config.seed] = run
    planned = [(run.job, _short(run, listed="full" in runs)) for run in cheapest.values()]
    return [_control(job, c, SHORT_FULL, job.label) for job, c in planned if c is not None]


def _short(run: _Finished, *, listed: bool) -> RunConfig | None:
    """Return the options of full training at a run's compute, None if there is no such thing.

    Args:
        run: Whose compute it gets.
        listed: Whether full training is among the compared: under an equal budget it is short.
    """
    config = run.job.config
    base = _with_policy(config, SHORT_FULL)
    if config.setting == "equal-budget":
        return None if listed else base.with_options(charge_reference=config.charge_reference)
    share = float(run.result["charged_flops"]) / float(run.result["full_flops"])
    batches = share * config.epochs * len(run.kept.visits) / config.batch_size
    if share >= 1.0 or batches < 1.0:
        return None
    return base.with_options(setting="equal-budget", budget=share, max_draws=None)


def _with_policy(config: RunConfig, policy: str) -> RunConfig:
    return config.with_options(policy=policy, policy_params={}, **_OWN_OPTIONS)


def _control(job: Job, config: RunConfig, row: str, of: str) -> Job:
    """Return a control run beside the runs, with tags that say what it is."""
    tags = job.tags | {"policy": row, "kind": "control", "control_of": of}
    folder = run_folder(job.folder.parent.parent, config, row)
    return dataclasses.replace(job, label=row, config=config, folder=folder, tags=tags)
