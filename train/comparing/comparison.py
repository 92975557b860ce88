"""What is compared: the options of a comparison, its presets, and the rows that have options.

A row is a policy, or a policy with some options changed: ``gstds@schedule=linear,keep=.5`` is the
policy ``gstds`` on another schedule. A key is an option of the command line, ``schedule.NAME`` a
parameter of the schedule, and ``policy.NAME`` or any other name a parameter of the policy. The
whole text is the row's name, in tables and in MLflow.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gstds.common.checks import near_names
from gstds.options.fields import Options, names, option
from gstds.train.running.options import LogOptions, RunConfig, config_from

PRESETS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("presets.toml").read_text(encoding="utf-8")
)
"""The paper's open checks (GSTDS, arXiv 2507.04269): a question, and the options that answer it."""

TUNING_SEED = 10_000
"""The first seed of trials."""

_APART = ("policy", "seed", "policy_params", "schedule_params")
_IN_ROWS = [name for name in names(RunConfig) if name not in _APART]


@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """Rows."""

    policies: tuple[str, ...] = option(
        ("gstds", "random", "full"),
        "policies, or variants as gstds@keep=.4,score=raw",
        metavar="NAME",
    )
    seeds: int = option(3, "number of seeds", "[1, inf)", metavar="COUNT")
    baseline: str | None = option(
        None, "tested against (default: random, or the first)", metavar="NAME"
    )
    paper_defaults: bool = option(
        False, "each policy on its own paper's schedule, not on the comparison's", flag=True
    )
    controls: bool = option(
        True, "run the controls too: random with the same keep sequence, short full training"
    )
    model: str = option("best", "networks in MLflow: each policy's best, or all", ("best", "all"))


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions(Options):
    """Protocol."""

    tune: tuple[str, ...] | None = option(
        None,
        "give every row and control the same trials of these values on selection-validation, then "
        "compare with those that were best for each: learning_rate=.05,.1,.2",
        metavar="KEY=VALUES",
    )
    tune_seeds: int = option(
        2, f"seeds of the trials, from {TUNING_SEED:,} on", "[1, inf)", metavar="COUNT"
    )
    splits: str = option(
        "fixed",
        "one split of the data for all seeds, or per-seed: seed s has split-seed + s",
        ("fixed", "per-seed"),
    )
    trust: str | None = option(
        None,
        "what labels are trusted by in every row but random and full, which get rows of their own "
        "with it",
        ("reference", "agreement", "none"),
    )
    margin: float = option(
        0.3, "points within which two policies are level (TOST), fixed beforehand", "(0, 100)"
    )


@dataclass(frozen=True, kw_only=True)
class FanOutOptions(Options):
    """Where runs are done."""

    first_seed: int = option(0, "the first seed", metavar="S")
    workers: int = option(1, "processes", "[1, inf)", metavar="K")
    threads: int | None = option(
        None,
        "threads of a run; results are the same bits for equal T (default: cores / K)",
        "[1, inf)",
        metavar="T",
    )
    ray: str | None = option(
        None,
        "work as tasks of a Ray cluster: host:port, auto, or local for one of this machine",
        metavar="ADDRESS|local",
    )


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """Sweep, by selection-validation accuracy, never test."""

    sweep: tuple[str, ...] | None = option(
        None,
        "vary options or policy parameters over a grid: keep=.3,.5 score_share=0,.5,1 "
        "schedule.midpoint=.3,.7; with --sweep-optuna also ranges: keep=.2..0.8, "
        "learning_rate=.01..1:log",
        metavar="KEY=VALUES",
    )
    sweep_optuna: int | None = option(
        None,
        "N points chosen by Optuna instead of the grid (extra 'sweep')",
        "[1, inf)",
        metavar="N",
    )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(SweepOptions, FanOutOptions, ProtocolOptions, RowOptions):
    """Data sets and presets."""

    datasets: tuple[str, ...] | None = option(
        None, "compare on each of these, with an overview", metavar="NAME"
    )
    preset: str | None = option(
        None,
        "rows, baseline and options of one of the paper's open checks, a name of `gstds list "
        f"presets` ({', '.join(PRESETS)}); other options win over it",
        tuple(PRESETS),
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class Comparison(LogOptions, FanOutOptions, ProtocolOptions, RowOptions):
    """What is compared, beside its options.

    Attributes:
        base: The options that all runs share.
        name: Tag of the comparison in the tracking store.
        folder: Where everything goes.
        tracking: URI of the tracking store, None for no tracking.
        command: The command that asked for it.
        question: What a preset asks.
        optional: Rows that are left out, with a note, where what they need cannot be had.
    """

    base: RunConfig
    name: str
    folder: Path
    tracking: str | None = None
    command: str = ""
    question: str = ""
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take random, or else the first policy, for the baseline if none is named."""
        super().__post_init__()
        rows = [self._trusting(row) for row in self.policies]
        for trust in dict.fromkeys(split_name(row)[1].get("trust", "none") for row in rows):
            beside = [variant_name(policy, {"trust": trust}) for policy in ("random", "full")]
            wanted = self.controls and trust != "none"
            rows += [row for row in beside if wanted and row not in rows]
        object.__setattr__(self, "policies", tuple(rows))
        if self.baseline:
            object.__setattr__(self, "baseline", self._trusting(self.baseline))
        if self.baseline is None and self.policies:
            first = "random" if "random" in self.policies else self.policies[0]
            object.__setattr__(self, "baseline", first)

    def _trusting(self, row: str) -> str:
        """Return a row with the comparison's trust in labels, if it is to have that."""
        policy, values = split_name(row)
        if self.trust is None or policy in ("random", "full") or "trust" in values:
            return row
        return variant_name(policy, {**values, "trust": self.trust})

    @property
    def head(self) -> dict[str, Any]:
        """What every file of results begins with."""
        return {"version": 1, "name": self.name, "command": self.command}

    @property
    def every_seed(self) -> range:
        """The seeds of each row."""
        return range(self.first_seed, self.first_seed + self.seeds)


def comparison_from(options: Mapping[str, Any], folder: Path, **more: Any) -> Comparison:
    """Return a comparison from its options and those of its runs, by name.

    Args:
        options: The options.
        folder: Its folder, which gives it its name.
        **more: Its other attributes.

    Raises:
        ValueError: If an option is unknown or out of range.
    """
    whole = {name: options[name] for name in names(Comparison) if name in options}
    base = config_from({name: value for name, value in options.items() if name not in whole})
    return Comparison(base=base, name=folder.name, folder=folder, **whole, **more)


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """Return a row's policy and the values of its keys.

    Raises:
        TypeError: If the name is no text.
        ValueError: If a key has no value, or stands twice.
    """
    if not isinstance(name, str):
        raise TypeError(f"policy must be a text, got {name!r}")
    policy, mark, rest = name.rpartition("@")
    if not mark or "=" not in rest:
        return name, {}
    values: dict[str, Any] = {}
    for part in rest.split(","):
        key, _, text = part.partition("=")
        key = key.strip().replace("-", "_")
        if not key or not text:
            raise ValueError(f"policy {name!r}: write POLICY@KEY=VALUE,KEY=VALUE, got {part!r}")
        if key in values:
            raise ValueError(f"policy {name!r}: {key} stands there twice")
        values[key] = option_value(text)
    return policy, values


def variant_name(policy: str, values: Mapping[str, Any]) -> str:
    """Return the name of the row of a policy with these keys; `split_name` takes it apart."""
    if not values:
        return policy
    texts = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in values.items()}
    return f"{policy}@{','.join(map('='.join, texts.items()))}"


def option_value(text: str) -> Any:
    """Return what a text on the command line stands for: a number, true, false, null, or itself."""
    import yaml

    from gstds.train.running.options import read_yaml

    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} has no readable value") from error


def variant_config(base: RunConfig, name: str) -> RunConfig:
    """Return the configuration of a row: the comparison's, with the row's policy and options.

    Raises:
        ValueError: If the policy or a key is unknown, or a value is out of range.
        TypeError: If a value has the wrong type.
    """
    from gstds.policies.registry import refuse_idle_schedule

    policy, values = split_name(name)
    idle = [k for k in values if k.partition(".")[0] in ("keep", "schedule")]
    idle = [k for k in idle if not takes(policy, k)]
    refuse_idle_schedule(
        policy, {k: values[k] for k in idle}, lambda own: f"{policy}@{','.join(own)}"
    )
    return base.with_options(policy=policy, **options_of(base, policy, values))


def options_of(base: RunConfig, policy: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a row's keys change, parameters merged into the comparison's.

    Raises:
        ValueError: If a key is neither an option nor a parameter of the policy.
    """
    parameters = _parameters(policy)
    own = {"keep"} & set(parameters) if "schedule" not in parameters else set()
    changes = {key: value for key, value in values.items() if key in _IN_ROWS and key not in own}
    for_policy, for_schedule = dict(base.policy_params), dict(base.schedule_params)
    if changes.get("schedule", base.schedule) != base.schedule:
        for_schedule = {}  # another schedule has other parameters
    for key, value in values.items():
        place, _, parameter = key.rpartition(".")
        if place == "schedule":
            for_schedule[parameter] = value
        elif key not in changes:
            name, known = key.removeprefix("policy."), parameters
            if name not in known and ("**" not in known or "." in name):
                near = near_names(name, {*known, *_IN_ROWS} - {"**"})
                what = f"no parameter {name!r}, and no option has"
                raise ValueError(f"policy {policy!r} has {what}; {near}")
            for_policy[name] = value
    return {**changes, "policy_params": for_policy, "schedule_params": for_schedule}


def takes(policy: str, key: str) -> bool:
    """Say whether a policy has a parameter of this name, or a run an option that it goes by."""
    from gstds.policies.registry import follows_schedule, policy_class

    kind = policy_class(policy)
    if key.partition(".")[0] in ("keep", "schedule") and key not in _parameters(policy):
        return follows_schedule(kind) or not kind.__module__.startswith("gstds.")
    try:
        options_of(RunConfig(), policy, {key: None})
    except ValueError:
        return False
    return True


def _parameters(policy: str) -> list[str]:
    """Return the names of a policy's parameters, and ``**`` if it takes any."""
    from gstds.policies.registry import policy_class

    signature = inspect.signature(policy_class(policy)).parameters
    own = ["**" if one.kind is one.VAR_KEYWORD else name for name, one in signature.items()]
    return [*own, "trust"]
