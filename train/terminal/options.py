"""Words of a command line: flags, defaults and help from the options' fields; places, all checked.

Exit codes, too: done, a run failed, bad input, interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import importlib.util
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.options.fields import Options, default_of, groups, kind_of, names
from gstds.train.running.options import RecordOptions

if TYPE_CHECKING:
    from gstds.train.tracking.uploader import Upload


class Exit(enum.IntEnum):
    """What a shell is answered."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    INTERRUPTED = 130


def code_of(statuses: Collection[str], *, whole: bool = True, done: Collection[str] = ()) -> int:
    """Return the exit code of runs.

    Args:
        statuses: How each ended.
        whole: Whether all that were planned are there.
        done: Statuses that count as done beside ``finished``.
    """
    if "interrupted" in statuses or not whole:
        return Exit.INTERRUPTED
    return Exit.DONE if set(statuses) <= {"finished", *done} else Exit.FAILED


# ------------------------------------------------------------------ options


def add_options(
    parser: argparse.ArgumentParser,
    kind: type[Options],
    *,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    defaults: bool = False,
) -> None:
    """Add options to a command, group by group.

    Args:
        parser: The command's.
        kind: The options.
        only: Names of those to add; None for all.
        skip: Names of those to leave out.
        defaults: Let what was not given have its default; otherwise it is not there.
    """
    wanted = set(names(kind) if only is None else only) - set(skip)
    for title, group in groups(kind).items():
        chosen = [one for one in group if one.name in wanted]
        if chosen:
            place = parser.add_argument_group(title[0].lower() + title[1:])
            for one in chosen:
                start = default_of(one) if defaults else argparse.SUPPRESS
                place.add_argument(_flag(one.name), default=start, **_argument(one))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _argument(one: Field[Any]) -> dict[str, Any]:
    kind, about, default = kind_of(one), one.metadata, default_of(one)
    if about["flag"]:
        return {"action": "store_true", "help": about["help"]}
    value = " ".join(default) if isinstance(default, tuple) else default
    shown = "" if default in ({}, None) else f" (default: {value})"
    text = {"help": about["help"] + shown}
    if kind == "bool":
        return {"action": argparse.BooleanOptionalAction, **text}
    if kind == "map":
        pairs = {"nargs": "+", "action": Pairs, "type": _key_value, "metavar": "KEY=VALUE"}
        return pairs | text
    text["metavar"] = about["metavar"] or one.name.rpartition("_")[2].upper()
    if kind == "list":
        numbers = {"const": float} if "float" in str(one.type) else {}
        return {"nargs": "+", "action": Words, **numbers, **text}
    return {"type": {"int": int, "float": float}.get(kind, str), **text}


class Pairs(argparse.Action):
    """KEY=VALUE words, as a dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Set the option."""
        setattr(namespace, self.dest, dict(values))


class Words(argparse.Action):
    """Words of a list, between which commas separate as spaces do, but in a path or KEY=V1,V2."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Set the option."""
        parts = [[word] if set("=/") & set(word) else word.split(",") for word in values]
        words = [word for part in parts for word in part if word]
        try:
            setattr(namespace, self.dest, [self.const(w) for w in words] if self.const else words)
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def _key_value(text: str) -> tuple[str, Any]:
    import yaml

    from gstds.train.running.options import read_yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    try:
        return key.replace("-", "_"), read_yaml(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} has no readable value") from error


def given(arguments: argparse.Namespace, kind: type[Options]) -> dict[str, Any]:
    """Return those options that stand on the command line, or in the file that it names."""
    known = names(kind)
    return {name: value for name, value in vars(arguments).items() if name in known}


def option_words(options: Options, skip: Collection[str] = ()) -> list[str]:
    """Return the options that differ from their defaults, as words of a command line."""
    words: list[str] = []
    for one in fields(options):
        value, flag = getattr(options, one.name), _flag(one.name)
        if one.name not in names(type(options)) or one.name in skip or value == default_of(one):
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, Mapping):
            words += [flag, *(f"{key}={item}" for key, item in value.items())]
        else:
            words += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


# ------------------------------------------------------------------ places


def command_line() -> str:
    """Return the command that runs, without its secrets."""
    from gstds.train.tracking.store import mask_secrets

    return shlex.join(["gstds", *(mask_secrets(word) for word in sys.argv[1:])])


def begin(arguments: argparse.Namespace) -> None:
    """Let ``module:Class`` name files of the working folder, and check options of the record.

    Raises:
        ValueError: If MLflow is only a folder of that name, or an option is out of range.
        OSError: If the file of ``--json`` cannot be written.
    """
    for problem in check_mlflow():
        raise ValueError(problem)
    here = str(Path.cwd())
    if here not in sys.path:  # behind the packages, which it does not shadow
        sys.path.append(here)
    result = RecordOptions(**given(arguments, RecordOptions)).json
    if result:
        try:
            if Path(result).is_dir():
                raise IsADirectoryError(result)
            _try_writing(Path(result).absolute().parent)
        except OSError as error:
            raise OSError(f"--json {result!r}: it cannot be written there") from error


def _try_writing(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x" * 4096)
        probe.flush()


def check_mlflow() -> list[str]:
    """Say whether MLflow is only a folder of that name."""
    spec = sys.modules.get("mlflow") or importlib.util.find_spec("mlflow")
    if spec is None or getattr(spec, "origin", None) or getattr(spec, "__file__", None):
        return []
    return ["package 'mlflow' is not installed: only a folder of that name is found; install it"]


def place_for(arguments: argparse.Namespace, kind: str, *, touch: bool = True) -> Path:
    """Return the folder of ``--out``, or else the name of one that is not there yet, in ``runs``.

    Args:
        arguments: The command line.
        kind: How the name of a new one begins.
        touch: Try whether it can be made and written, and leave nothing behind.

    Raises:
        OSError: If it cannot; the message names it.
        ValueError: If it is a run's, and a comparison is to go there, or the other way round.
    """
    new = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = Path(arguments.out) if arguments.out else Path("runs") / new
    holds = "a comparison" if (folder / "comparison.json").exists() else ""
    if (folder / "config.json").exists() and (folder / "log.jsonl").exists():
        holds = "a run"
    if holds and (holds == "a run") != (kind in ("run", "learn")):
        raise ValueError(f"--out {str(folder)!r} holds {holds}; name another folder")
    missing = [p for p in (folder, *folder.parents) if touch and not p.exists()]
    try:
        if touch:
            folder.mkdir(parents=True, exist_ok=True)
            _try_writing(folder)
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
        raise OSError(f"--out {str(folder)!r} {why}; name another folder") from error
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()
    return folder


def open_tracking(uri: str | None, experiment: str, *, offline: bool = False) -> Upload:
    """Return the tracking store that a record goes to.

    A server is asked whether it is there. Nothing is made yet: the data may prove unusable.

    Args:
        uri: The store's; None as for `tracking_uri`.
        experiment: Its experiment.
        offline: Begin though it does not answer.

    Raises:
        ConnectionError: If the server does not answer, unless that is so wanted.
    """
    from gstds.train.tracking.store import check_store
    from gstds.train.tracking.uploader import Upload

    upload = Upload(uri, experiment)
    try:
        check_store(upload.uri, experiment)
    except ConnectionError:
        if not offline:
            raise
    return upload


def asked_tracking(arguments: argparse.Namespace) -> Upload | None:
    """Return the tracking store of a command line, as `open_tracking` does; None without one."""
    if arguments.no_tracking:
        return None
    offline = getattr(arguments, "offline", False)
    return open_tracking(arguments.tracking_uri, arguments.experiment, offline=offline)
