"""One run's options, its identity, and the folder that follows from them.

This module imports nothing heavy, so that ``gstds --help`` is quick.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gstds.common.files import sha256
from gstds.options.fields import Options, check_names, option, select
from gstds.options.world import WorldOptions

__all__ = [
    "LogOptions",
    "RecordOptions",
    "RunConfig",
    "config_from",
    "dataset_folder",
    "identity",
    "policy_path",
    "run_folder",
]


@dataclass(frozen=True, kw_only=True)
class PolicyOptions(Options):
    """Policy."""

    policy: str = option("gstds", "policy: a name of `gstds list policies`, or module:Class")
    policy_params: dict[str, Any] = option({}, "parameters of the policy, KEY=VALUE ...")
    schedule: str = option("sigmoid", "keep-ratio schedule, a name of `gstds list schedules`")
    schedule_params: dict[str, Any] = option({}, "parameters of the schedule, KEY=VALUE ...")
    keep: float | None = option(
        None, "wanted mean keep ratio in (0, 1], in the setting's unit", "(0, 1]", metavar="R"
    )
    picker: str | None = option(
        None, "how policy custom, or an adaptive one, picks: a name of `gstds list pickers`"
    )
    score: str | None = option(
        None, "what the picker of policy custom goes by: a name of `gstds list scores`"
    )
    weighting: str | None = option(
        None, "how policy custom weighs what it keeps: ones, drawn or unbiased"
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig(WorldOptions, PolicyOptions):
    """Run.

    Everything that decides its outcome.
    """

    test: bool = option(True, "evaluate the test part at the end; --no-test leaves it for later")
    deterministic: bool = option(False, "bit-identical runs on CUDA too, more slowly")
    seed: int = option(0, "seed of the run", metavar="S")

    def __post_init__(self) -> None:
        """Say of a number that is none what it is, before its bounds are looked at."""
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        super().__post_init__()

    def env_options(self) -> dict[str, Any]:
        """Return the environment's keyword arguments among the options."""
        return vars(select(self, WorldOptions))


@dataclass(frozen=True, kw_only=True)
class LogOptions(Options):
    """Where it goes."""

    checkpoint_every: int = option(200, "steps between checkpoints, 0 for none", metavar="STEPS")
    experiment: str = option("gstds", "MLflow experiment")
    offline: bool = option(
        False,
        "begin though the MLflow server does not answer; it gets the record when it does",
        flag=True,
    )


@dataclass(frozen=True, kw_only=True)
class RecordOptions(LogOptions):
    """Where it goes."""

    config: str | None = option(None, "options as YAML; the command line wins", metavar="FILE")
    out: str | None = option(None, "folder (default: a new one in runs/)", metavar="DIR")
    json: str | None = option(None, "write the result for programs", metavar="FILE")
    tracking_uri: str | None = option(
        None, "MLflow store (default: $MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here)"
    )
    no_tracking: bool = option(False, "keep no record in MLflow", flag=True)


def config_from(options: Mapping[str, Any]) -> RunConfig:
    """Return a configuration from options by name, hyphens or underscores.

    Raises:
        ValueError: If a name is unknown; the message lists the near ones.
    """
    given = {str(name).replace("-", "_"): value for name, value in options.items()}
    check_names(RunConfig, given)
    return RunConfig(**given)


def identity(config: RunConfig) -> str:
    """Return the digest of a configuration and of the sources that give it meaning."""
    plugins = (config.policy, config.learner, config.dataset, config.reference)
    options = json.dumps(config.as_dict(), sort_keys=True, default=str)
    return sha256("\n".join([options, _sources(), *map(_plugin_source, plugins)]))[:16]


def policy_path(policy: str) -> str:
    """Return a policy's name as it stands in the names of files."""
    return policy.replace(":", "-").replace("/", "-")


def dataset_folder(folder: Path, dataset: str) -> Path:
    """Return where a data set's comparison goes."""
    return folder / "".join(c if c.isalnum() or c in "-._" else "-" for c in dataset)


def run_folder(comparison: Path, config: RunConfig, row: str | None = None) -> Path:
    """Return the folder of one run of a comparison.

    Args:
        comparison: The comparison's folder.
        config: The run's options.
        row: The row that the run belongs to; default its policy.
    """
    name = f"{policy_path(row or config.policy)}-{config.seed}-{identity(config)}"
    return comparison / "runs" / name


_PARTS = ("gstds.envs", "gstds.policies", "gstds.train.running")
_INSIDE = ("gstds.envs", "gstds.policies", "gstds.train")  # the folder of a wheel holds them


def _sources() -> str:
    """Return the digest of what results depend on: plots, reports and commands are not in it."""
    contents = []
    for package in ("gstds", *_PARTS):
        spec = importlib.util.find_spec(package)
        root = Path(str(spec and spec.origin)).resolve().parent
        for path in sorted(root.rglob("*.py")):
            name = ".".join([package, *path.relative_to(root).parts])
            if package != "gstds" or not name.startswith(_INSIDE):
                contents.append(name.encode() + path.read_bytes())
    return sha256(parts=contents)


def _plugin_source(name: str) -> str:
    module = name.partition(":")[0].replace(".", "/")
    path = Path(f"{module}.py")
    return sha256(path.read_bytes()) if ":" in name and path.is_file() else ""
