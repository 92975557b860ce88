"""Sweeps: parameters over a grid, or points chosen by Optuna; and tuning: a grid for every row.

Points are ranked by the accuracy on selection-validation. The test part is never evaluated here:
what was chosen on it could not be judged by it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gstds.options.fields import names
from gstds.options.world import DataOptions
from gstds.train.comparing import comparison as variants
from gstds.train.comparing.comparison import (
    TUNING_SEED,
    Comparison,
    option_value,
    split_name,
    variant_name,
)
from gstds.train.comparing.controls import plan_controls
from gstds.train.comparing.runs import carry_out, plan_run, tuned, with_values
from gstds.train.figures.plots import SHORT_FULL
from gstds.train.figures.statistics import mean, rank
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


def parse_axes(words: Sequence[str], option: str = "--sweep") -> list[Axis]:
    """Return the axes of a sweep from words like ``keep=.3,.5`` or ``keep=.2..0.8``.

    Args:
        words: The words.
        option: The option that they are of, for messages.

    Raises:
        ValueError: If a word is no axis, or a key stands twice.
    """
    axes = [_parse_axis(word, option) for word in words]
    keys = [axis.key for axis in axes]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{option}: {', '.join(twice)} stands there twice")
    return axes


def _parse_axis(word: str, option: str) -> Axis:
    key, _, text = word.partition("=")
    key = key.strip().replace("-", "_")
    if not key or not text:
        raise ValueError(f"{option}: write KEY=V1,V2,... or KEY=LOW..HIGH, got {word!r}")
    if key in ("policy", "seed", "test"):
        raise ValueError(f"{option}: {key} cannot be varied; see --policies and --seeds")
    found = _RANGE.fullmatch(text)
    if found is None:
        values = tuple(option_value(part) for part in text.split(",") if part)
        if len(set(map(repr, values))) < len(values):
            raise ValueError(f"{option}: {word!r} names a value twice")
        return Axis(key, values)
    low, high, scale = option_value(found["low"]), option_value(found["high"]), found["scale"]
    if not all(type(end) in (int, float) for end in (low, high)) or not low < high:
        raise ValueError(f"{option}: {word!r} must run from a lower to a higher number")
    if scale not in (None, "log") or (scale and low <= 0):
        raise ValueError(f"{option}: {word!r} ends in :log, above 0, or in nothing")
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


# ---------------------------------------------------------------------------------- tuning


@dataclass(frozen=True)
class Tuning:
    """What tuning did.

    Attributes:
        values: By row, controls included: the values that were best for it.
        axes: The grid at its end.
        widened: The values that the grid got because an edge of it won.
        trials: The trials' results, each with its ``row`` and ``values``.
    """

    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    axes: Sequence[Axis] = ()
    widened: Sequence[str] = ()
    trials: Results = field(default_factory=list)

    @property
    def as_dict(self) -> dict[str, Any]:
        """What stands under ``tuning`` in a comparison's file."""
        grid_of = {axis.key: list(axis.values) for axis in self.axes}
        return {"grid": grid_of, "widened": list(self.widened), "trials": self.trials}


_TRIAL = ("policy", "seed", "status", "run_id", "val_accuracy", "mean_keep", "seconds")
_TRIAL += ("charged_flops", "full_flops")
_OTHER_TASK = set(names(DataOptions)) - {"augment", "image_size"}


def tuning_axes(comparison: Comparison) -> list[Axis]:
    """Return the grid that a comparison's rows are tuned over, checked for each of its rows.

    Raises:
        ValueError: If a grid has one value or is a range, a key is unknown, decides about the data,
            stands in a row already or is unknown to one, a value is out of range, or the trials'
            seeds are among the comparison's.
    """
    axes = parse_axes(comparison.tune or (), "--tune")
    if not axes:
        return axes
    trials = set(range(TUNING_SEED, TUNING_SEED + comparison.tune_seeds))
    if trials & set(comparison.every_seed):
        first, last = comparison.every_seed[0], comparison.every_seed[-1]
        raise ValueError(
            f"--tune: seeds {first} to {last} overlap those of the trials, {min(trials)} to "
            f"{max(trials)}; choose --first-seed and --seeds below {TUNING_SEED}"
        )
    beside = ("random", SHORT_FULL) if comparison.controls else ()
    for axis in axes:
        key = axis.key
        if len(axis.values) < 2:
            found = "is a range" if not axis.values else "has one value"
            raise ValueError(f"--tune: {key} {found}; give two values or more: {key}=V,V")
        if key in _OTHER_TASK:
            raise ValueError(f"--tune: {key} decides about the data, which are no policy's choice")
        for row in comparison.policies:
            if key in split_name(row)[1]:
                raise ValueError(f"--tune: row {row!r} sets {key} itself; drop one of both")
        policies = {row: split_name(row)[0] for row in (*comparison.policies, *beside)}
        lacking = [row for row in policies if not _knows(policies[row], key)]
        if len(lacking) == len(policies):
            variants.options_of(comparison.base, policies[lacking[0]], {key: None})
        if lacking:
            own = next(row for row in policies if row not in lacking)
            control = ", a control (--no-controls)" * (lacking[0] not in comparison.policies)
            raise ValueError(
                f"--tune: row {lacking[0]!r}{control} has no option {key!r}, so it could not have "
                f"the same trials; tune what every row has, such as learning_rate, or compare the "
                f"values as rows: {variant_name(own, {key: axis.values[0]})}"
            )
    for row in comparison.policies:
        config = plan_run(comparison, row, TUNING_SEED).config
        for point in _points(axes, row):
            with_values(config, point)
    return axes


def _knows(policy: str, key: str) -> bool:
    return key.partition(".")[0] in ("keep", "schedule") or variants.takes(policy, key)


def _points(axes: Sequence[Axis], row: str) -> list[dict[str, Any]]:
    """Return the points of a row: without the keys that its policy does not go by."""
    return grid([axis for axis in axes if variants.takes(split_name(row)[0], axis.key)])


def tune(comparison: Comparison, watch: Watch, stop: StopFlag) -> Tuning:
    """Find each row's best values on selection-validation, under seeds of the trials' own.

    Every row gets the same trials, and so do the controls, which are those of the rows at their
    best. Where the least or the greatest number of a key wins in any row, all rows get one number
    more, a step of the grid beyond it: once at either end.

    Args:
        comparison: Rows, options and folder.
        watch: Is told how the trials go on.
        stop: Looked at between steps.

    Raises:
        ValueError: If a key or a value is unknown or out of range.
        OSError: If a file cannot be read or written.
    """
    axes, tried = tuning_axes(comparison), dict[tuple[str, bool], Any]()
    base, count = comparison.base.with_options(test=False), comparison.tune_seeds
    own = replace(comparison, base=base, first_seed=TUNING_SEED, seeds=count)
    rows = [plan_run(own, row, seed) for seed in own.every_seed for row in own.policies]
    while True:
        trials = _Trials(own, axes, watch, stop)
        best = trials.best_of(rows)
        if comparison.controls and not stop.is_set:
            keys, baseline = [axis.key for axis in axes], str(comparison.baseline)
            trials.best_of(plan_controls(best, trials.results, baseline, keys)[0])
        wider = axes if stop.is_set else _wider(axes, trials.values, rows, tried)
        if wider == axes:
            added = [f"{key}={value}" for (key, _), value in tried.items() if value is not None]
            return Tuning(trials.values, axes, added, trials.told)
        axes = wider


@dataclass
class _Trials:
    """Trials over one grid."""

    own: Comparison
    axes: Sequence[Axis]
    watch: Watch
    stop: StopFlag

    def __post_init__(self) -> None:
        self.results: dict[Any, dict[str, Any]] = {}
        self.values: dict[str, dict[str, Any]] = {}
        self.told: Results = []

    def best_of(self, jobs: Sequence[Job]) -> list[Job]:
        """Try the jobs' rows at every point; return their jobs at the points that were best."""
        tags = {"comparison": f"{self.own.name}-tuning", "sweep": f"{self.own.name}-tuning"}
        tried = []
        for job in (replace(job, tags=job.tags | tags) for job in jobs):
            policy, given = split_name(job.label)
            for point in _points(self.axes, job.label):
                trial = tuned(job, point, variant_name(policy, {**given, **point}))
                tried.append((job.label, point, trial))
        self.results |= carry_out([job for *_, job in tried], self.own, self.watch, self.stop)
        best = []
        for row in dict.fromkeys(job.label for job in jobs):
            mine = [(p, job) for label, p, job in tried if label == row]
            done = [(p, self.results[job.folder]) for p, job in mine if job.folder in self.results]
            self.told += [
                {"row": row, "values": p} | {name: result.get(name) for name in _TRIAL}
                for p, result in done
            ]
            if done:
                first = rank([result for _, result in done])[0]["policy"]
                self.values[row] = next(p for p, job in mine if job.label == first)
                best += [replace(job, label=row) for _, job in mine if job.label == first]
        return best


def _wider(
    axes: Sequence[Axis],
    values: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Job],
    tried: dict[tuple[str, bool], Any],
) -> list[Axis]:
    """Return the grid with what lies beyond the edges that won; note in ``tried`` what was added.

    An edge beyond which a row's option has no values stays one.
    """
    wider = []
    for axis in axes:
        inside, key = list(axis.values), axis.key
        if not all(type(value) in (int, float) and value > 0 for value in inside):
            wider.append(axis)
            continue
        for high in (False, True):
            inner, edge = sorted(axis.values, reverse=not high)[-2:]
            won = any(chosen.get(key) == edge for chosen in values.values())
            if won and (key, high) not in tried:
                beyond = float(f"{edge * edge / inner:.4g}")
                beyond = int(beyond) if type(edge) is int and beyond.is_integer() else beyond
                tried[key, high] = None
                with contextlib.suppress(ValueError, TypeError):
                    for job in rows:
                        with_values(job.config, {key: beyond})
                    tried[key, high] = beyond
                    inside = [*inside, beyond] if high else [beyond, *inside]
        wider.append(replace(axis, values=tuple(inside)))
    return wider
