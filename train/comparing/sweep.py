"""Sweeps: a policy's parameters over a grid, or points chosen by Optuna.

Points are ranked by the accuracy on selection-validation. The test part is never evaluated here:
what was chosen on it could not be judged by it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gstds.train.comparing import comparison as variants
from gstds.train.comparing.compare import carry_out, plan_run
from gstds.train.comparing.comparison import Comparison, option_value, split_name, variant_name
from gstds.train.figures.statistics import by_policy, confidence_half_width, finished, mean, numbers
from gstds.train.launching.jobs import Job, Watch
from gstds.train.running.ending import StopFlag

_RANGE = re.compile(r"(?P<low>[^,]+?)\.\.(?P<high>[^,:]+)(?::(?P<scale>\w+))?")
_MOST_POINTS = 10_000
_STARTUP = 5  # random points first, whatever their number, so that more points go on from fewer
Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Axis:
    """What one key takes on.

    Attributes:
        key: An option, ``schedule.NAME``, or a parameter of the policy.
        values: The values, in order; empty for a range.
        low: Lower end of a range.
        high: Upper end of a range.
        log: Whether the range is searched on a logarithmic scale.
    """

    key: str
    values: tuple[Any, ...] = ()
    low: float | int = 0
    high: float | int = 0
    log: bool = False


def parse_axes(words: Sequence[str]) -> list[Axis]:
    """Return the axes of a sweep from words like ``keep=.3,.5`` or ``keep=.2..0.8``.

    Raises:
        ValueError: If a word is no axis, or a key stands twice.
    """
    axes = [_parse_axis(word) for word in words]
    keys = [axis.key for axis in axes]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"--sweep: {', '.join(twice)} stands there twice")
    return axes


def _parse_axis(word: str) -> Axis:
    key, _, text = word.partition("=")
    key = key.strip().replace("-", "_")
    if not key or not text:
        raise ValueError(f"--sweep: write KEY=V1,V2,... or KEY=LOW..HIGH, got {word!r}")
    if key in ("policy", "seed", "test"):
        raise ValueError(f"--sweep: {key} cannot be swept; see --policies and --seeds")
    found = _RANGE.fullmatch(text)
    if found is None:
        values = tuple(option_value(part) for part in text.split(",") if part)
        if len(set(map(repr, values))) < len(values):
            raise ValueError(f"--sweep: {word!r} names a value twice")
        return Axis(key, values)
    low, high, scale = option_value(found["low"]), option_value(found["high"]), found["scale"]
    if not all(type(end) in (int, float) for end in (low, high)) or not low < high:
        raise ValueError(f"--sweep: {word!r} must run from a lower to a higher number")
    if scale not in (None, "log") or (scale and low <= 0):
        raise ValueError(f"--sweep: {word!r} ends in :log, above 0, or in nothing")
    return Axis(key, (), low, high, scale == "log")


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return every combination of the axes' values, the last axis fastest.

    Raises:
        ValueError: If an axis is a range, or there are more than 10,000 points.
    """
    for axis in (one for one in axes if not one.values):
        raise ValueError(f"--sweep: {axis.key} is a range; give values, or use --sweep-optuna")
    if math.prod(len(axis.values) for axis in axes) > _MOST_POINTS:
        raise ValueError(f"--sweep: more than {_MOST_POINTS:,} points; use --sweep-optuna")
    keys = [axis.key for axis in axes]
    points = itertools.product(*(axis.values for axis in axes))
    return [dict(zip(keys, point, strict=True)) for point in points]


def swept_keys(policies: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the keys that each policy is swept over; one that none takes stays, to be refused."""
    names = {policy: split_name(policy)[0] for policy in policies}
    known = {key for key in keys if any(variants.takes(name, key) for name in names.values())}
    return {
        policy: [key for key in keys if key not in known or variants.takes(name, key)]
        for policy, name in names.items()
    }


def run_sweep(
    comparison: Comparison, axes: Sequence[Axis], trials: int | None, watch: Watch, stop: StopFlag
) -> tuple[Results, int]:
    """Run points under every seed; finished runs of the comparison's folder are not repeated.

    Args:
        comparison: Options, seeds and folder; each of its policies is swept, over those keys that
            it takes if another takes the rest. The test part is left alone.
        axes: What is varied.
        trials: How many points Optuna chooses (TPE, by the mean accuracy on selection-validation),
            for the one policy; None for every point of a grid. The sampler's seed is the first
            seed, and runs are repeatable: the same command chooses the same points again, finds
            the finished ones in its folder, and goes on.
        watch: Is told how the runs go on.
        stop: Looked at between steps.

    Returns:
        The runs' results, and how many runs were planned.

    Raises:
        ImportError: If Optuna is wanted and not installed.
        ValueError: If a key or a value is unknown or out of range.
        OSError: If a file cannot be read or written.
    """
    comparison = replace(comparison, base=comparison.base.with_options(test=False))
    if trials is not None:
        return _search(comparison, axes, trials, watch, stop)
    keys = swept_keys(comparison.policies, [axis.key for axis in axes])
    rows = [
        variant_name(policy, {key: point[key] for key in taken})
        for point in grid(axes)
        for policy, taken in keys.items()
    ]
    plans = [_plan(comparison, row) for row in dict.fromkeys(rows)]
    # Seed by seed, so that all points can be compared early.
    jobs = [job for group in zip(*plans, strict=True) for job in group]
    return list(carry_out(jobs, comparison, watch, stop).values()), len(jobs)


def _search(
    comparison: Comparison, axes: Sequence[Axis], trials: int, watch: Watch, stop: StopFlag
) -> tuple[Results, int]:
    study, failed = _study(comparison)
    (policy,) = comparison.policies
    # Before a range is searched for hours: no policy knows a wrong key.
    variants.options_of(comparison.base, split_name(policy)[0], dict.fromkeys(a.key for a in axes))
    found: dict[Any, dict[str, Any]] = {}
    at_once = max(1, math.ceil(comparison.workers / comparison.seeds))
    for start in range(0, trials, at_once):
        asked = [study.ask() for _ in range(min(at_once, trials - start))]
        points = [{axis.key: _suggest(trial, axis) for axis in axes} for trial in asked]
        rows = [variant_name(policy, point) for point in points]
        jobs: list[Job] = []
        for row in dict.fromkeys(rows):
            try:
                jobs += _plan(comparison, row)
            except ValueError as error:  # its values do not go together
                watch.note(f"{row} is left out: {error}")
        found |= carry_out(jobs, comparison, watch, stop)
        if stop.is_set:
            break
        for trial, row in zip(asked, rows, strict=True):
            value = mean((r for r in found.values() if r["policy"] == row), "val_accuracy")
            study.tell(trial, value, state=failed if value is None else None)
    return list(found.values()), len(found) + bool(stop.is_set)


def _plan(comparison: Comparison, row: str) -> list[Job]:
    jobs = [plan_run(comparison, row, seed) for seed in comparison.every_seed]
    return [replace(job, tags={**job.tags, "sweep": comparison.name}) for job in jobs]


def _study(comparison: Comparison) -> tuple[Any, Any]:
    """Return Optuna's study, and what it calls a trial that failed."""
    if len(comparison.policies) != 1:
        found = ", ".join(comparison.policies)
        raise ValueError(f"--sweep-optuna searches one policy at a time, got {found}")
    try:
        import optuna
    except ImportError as error:
        mend = "pip install 'gstds[sweep]', or leave it out for a grid"
        raise ImportError(f"--sweep-optuna needs Optuna, not installed ({error}): {mend}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=comparison.first_seed, n_startup_trials=_STARTUP)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    return study, optuna.trial.TrialState.FAIL


def _suggest(trial: Any, axis: Axis) -> Any:
    if axis.values:
        return trial.suggest_categorical(axis.key, list(axis.values))
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return trial.suggest_int(axis.key, axis.low, axis.high, log=axis.log)
    value = trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
    return float(f"{value:.4g}")  # a name that a person can type


def rank(results: Results) -> Results:
    """Return the points, the best mean accuracy on selection-validation first.

    Args:
        results: Results of the sweep's runs.

    Returns:
        Rows of ``policy`` (the point's name), ``n``, ``lost`` (runs that did not finish), ``mean``,
        ``ci95``, ``mean_keep``, ``relative_compute`` and ``seconds``. Points that lost a run come
        after all others.
    """
    rows = []
    for name, group in by_policy(results).items():
        scores = numbers(group, "val_accuracy")
        shares = [{"share": r["charged_flops"] / r["full_flops"]} for r in finished(group)]
        row = {"policy": name, "n": len(scores), "lost": len(group) - len(scores)}
        row |= {"mean": mean(group, "val_accuracy"), "ci95": confidence_half_width(scores)}
        row |= {name: mean(group, name) for name in ("mean_keep", "seconds")}
        rows.append(row | {"relative_compute": mean(shares, "share")})
    return sorted(rows, key=lambda row: (row["lost"] > 0, -(row["mean"] or 0.0)))
