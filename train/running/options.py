"""One run's options: the command line, the YAML file and the environment's keywords are the same.

This module imports nothing heavy, so that ``gstds --help`` is quick.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gstds.common.checks import check_fraction, check_integer, near_names
from gstds.common.files import sha256

__all__ = [
    "ENV_FIELDS",
    "RunConfig",
    "config_from",
    "dataset_folder",
    "identity",
    "policy_path",
    "run_folder",
]


def _option(default: Any, help_text: str, kind: str = "str", **extra: Any) -> Any:
    metadata = {"help": help_text, "kind": kind, **extra}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the outcome of a run; see each field's help.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    policy: str = _option("gstds", "policy: a name of `gstds list policies`, or module:Class")
    policy_params: dict[str, Any] = _option({}, "parameters of the policy, KEY=VALUE ...", "map")
    schedule: str = _option("sigmoid", "keep-ratio schedule, a name of `gstds list schedules`")
    schedule_params: dict[str, Any] = _option(
        {}, "parameters of the schedule, KEY=VALUE ...", "map"
    )
    keep: float | None = _option(
        None, "wanted mean keep ratio in (0, 1], in the setting's unit", "float"
    )
    picker: str | None = _option(
        None, "how policy custom, or an adaptive one, picks: a name of `gstds list pickers`"
    )
    score: str | None = _option(
        None, "what the picker of policy custom goes by: a name of `gstds list scores`"
    )
    weighting: str | None = _option(
        None, "how policy custom weighs what it keeps: ones, drawn or unbiased"
    )
    dataset: str = _option(
        "digits", "data: a name of `gstds list datasets`, folder:PATH, npz:PATH or module:function"
    )
    limit: int | None = _option(None, "number of training samples", "int")
    label_noise: float = _option(0.0, "share of wrong training labels", "float")
    duplicates: float = _option(0.0, "share of training samples that copy others", "float")
    imbalance: float = _option(0.0, "1 - share that the rarest class keeps", "float")
    split_seed: int = _option(0, "seed of the splits, the limit and the three options above", "int")
    clean_validation: bool = _option(False, "no label noise on reward-validation", "bool")
    augment: bool | None = _option(
        None, "random crops and flips; default: the data's custom", "bool"
    )
    image_size: int | None = _option(None, "side in pixels of images read from files", "int")
    learner: str = _option(
        "small-cnn", "network: a name of `gstds list learners`, or module:function"
    )
    optimizer: str = _option("sgd", "sgd (Nesterov momentum) or adamw")
    learning_rate: float | None = _option(
        None, "peak rate; default .1 (sgd), .002 (adamw)", "float"
    )
    momentum: float = _option(0.9, "momentum of sgd", "float")
    weight_decay: float = _option(5e-4, "weight decay", "float")
    label_smoothing: float = _option(0.0, "label smoothing", "float")
    on_nan: str = _option(
        "stop", "a loss or gradient that is not finite: stop the run, or skip that update"
    )
    precision: str = _option("auto", "auto, float32 or bfloat16")
    batch_size: int = _option(128, "samples of a drawn batch", "int")
    epochs: int = _option(10, "passes over the data, in the unit of full training", "int")
    setting: str = _option("equal-epochs", "equal-epochs or equal-budget")
    budget: float = _option(0.25, "share of full training's compute, for equal-budget", "float")
    max_draws: int | None = _option(
        None, "drawn batches after which equal-budget is cut off", "int"
    )
    reference: str = _option(
        "efficientnet-lite0",
        "frozen backbone, a name of `gstds list references`, or checkpoint:PATH",
    )
    compress: str | None = _option(
        None, "shorter features: int8, pca-128, random-128, or both as pca-128-int8"
    )
    charge_reference: bool = _option(False, "take the reference out of the budget", "bool")
    distill: float = _option(
        0.0, "share of the training loss that is the divergence from the reference", "float"
    )
    distill_temperature: float = _option(1.0, "temperature of that divergence", "float")
    pack: bool = _option(
        False, "kept samples wait until an update has a whole batch of them", "bool"
    )
    evaluations: int | None = _option(None, "evaluations in a run; default: one per epoch", "int")
    test: bool = _option(
        True, "evaluate the test part at the end; --no-test leaves it for later", "bool"
    )
    shards: int = _option(
        1, "parts of the drawn batch that are scored and selected from each by itself", "int"
    )
    device: str = _option("auto", "auto, cpu or cuda")
    cuda_graphs: bool = _option(
        True,
        "on CUDA, replay frequent updates from a recorded graph: same bits, faster",
        "bool",
    )
    deterministic: bool = _option(False, "bit-identical runs on CUDA too, more slowly", "bool")
    seed: int = _option(0, "seed of the run", "int")

    def __post_init__(self) -> None:
        """Check what can be checked without importing torch."""
        for name in ("policy_params", "schedule_params"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{name} must map names to values, got {getattr(self, name)!r}")
        self._check_types()
        if self.keep is not None:
            object.__setattr__(self, "keep", check_fraction("keep", self.keep, open_low=True))
        object.__setattr__(self, "seed", check_integer("seed", self.seed))

    def _check_types(self) -> None:
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            if value is None and option.default is None:
                continue
            kind = option.metadata["kind"]
            if kind == "str" and not isinstance(value, str):
                raise TypeError(f"{name} must be a text, got {value!r}")
            if kind == "bool" and not isinstance(value, bool):
                raise TypeError(f"{name} must be true or false, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")

    def with_options(self, **changes: Any) -> RunConfig:
        """Return a copy with some options changed."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as JSON-able values."""
        return asdict(self)

    def env_options(self) -> dict[str, Any]:
        """Return the environment's keyword arguments among the options."""
        return {name: getattr(self, name) for name in ENV_FIELDS}


_NOT_ENV = {
    "policy",
    "policy_params",
    "schedule",
    "schedule_params",
    "keep",
    "picker",
    "score",
    "weighting",
    "test",
    "shards",
    "deterministic",
    "seed",
}
ENV_FIELDS = tuple(f.name for f in fields(RunConfig) if f.name not in _NOT_ENV)


def config_from(options: Mapping[str, Any]) -> RunConfig:
    """Return a configuration from options by name, hyphens or underscores.

    Raises:
        ValueError: If a name is unknown; the message lists the near ones.
    """
    known = [f.name for f in fields(RunConfig)]
    given = {str(name).replace("-", "_"): value for name, value in options.items()}
    for name in given:
        if name not in known:
            raise ValueError(f"unknown option {name!r}; {near_names(name, known)}")
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
