"""One run's options, a YAML file of them, their identity, and the folder that follows from them.

Each key of the file is an option of the command line, with the same checks. Its values become the
parser's defaults, so that the command line wins, and so that a value means the same in both places.
This module imports nothing heavy, so that ``gstds --help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gstds.common.checks import near_names
from gstds.common.files import sha256
from gstds.options.fields import Options, check_names, option, select
from gstds.options.world import WorldOptions

_NOT_IN_FILES = {"config", "resume", "help", "debug"}
# YAML 1.1 takes 1e-3 for a text: it wants 1.0e-3.
_SCIENTIFIC = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


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
    no_model: bool = option(False, "log no network in MLflow", flag=True)
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
    options = json.dumps(config.as_dict(), sort_keys=True, default=str)
    plugins = (sha256(path.read_bytes()) if path else "" for path in plugin_files(config))
    return sha256("\n".join([options, _sources(), *plugins]))[:16]


def plugin_files(config: RunConfig) -> list[Path | None]:
    """Return the user's own files of policy, learner, data set and reference; None for ours."""
    names = (config.policy, config.learner, config.dataset, config.reference)
    paths = (Path(f"{name.partition(':')[0].replace('.', '/')}.py") for name in names)
    return [
        path if ":" in name and path.is_file() else None
        for name, path in zip(names, paths, strict=True)
    ]


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


# ---------------------------------------------------------------------------- a file of options


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text, numbers like 1e-3 included.

    Raises:
        yaml.YAMLError: If it is no YAML, names a key twice, or refers to itself by an alias.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            # Nine lines of aliases of aliases are a text of gigabytes in the first message.
            if self.check_event(yaml.AliasEvent):
                raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not read")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for at, key in enumerate(keys) if key in keys[:at]]
            if twice:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice")
            return super().construct_mapping(node, deep)

    # A tag's resolvers are kept by first character; the class has a copy of its own.
    # 010 is ten, not eight; 1:30 is no number.
    Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)  # noqa: S506  (a safe loader)
    except yaml.YAMLError:
        raise
    # A value that does not fit its tag raises whatever its conversion raises.
    except Exception as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


def load_config_file(path: str | Path) -> dict[str, Any]:
    """Return the options of a YAML file, hyphens as underscores; a null is left out.

    Raises:
        ValueError: If the file is missing, is no YAML, or holds no mapping.
    """
    import yaml

    try:
        content = read_yaml(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"config {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config {str(path)!r} is no valid YAML: {error}") from error
    if not isinstance(content, dict | None):
        raise ValueError(f"config {str(path)!r} must map options to values, got {content!r}")
    given = {str(key).replace("-", "_"): value for key, value in (content or {}).items()}
    return {key: value for key, value in given.items() if value is not None}


def take_defaults(parser: argparse.ArgumentParser, path: str | Path) -> None:
    """Make the values of a file the parser's defaults.

    Args:
        parser: The command's.
        path: The YAML file.

    Raises:
        TypeError: If a value is of another type than its option.
        ValueError: If the file is unusable or a key is no option of the command.
    """
    options = {a.dest: a for a in parser._actions if a.option_strings}
    known = sorted(set(options) - _NOT_IN_FILES)
    values = load_config_file(path)
    where = f"config {str(path)!r}:"
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{where} unknown option {name!r}; {near_names(name, known)}")
        flag = options[name].nargs == 0
        if flag != isinstance(value, bool):
            what = f"must {'' if flag else 'not '}be true or false, got {value!r}"
            raise TypeError(f"{where} {name} {what}")
    parser.set_defaults(**values)
