"""The command line ``gstds``: parsing, and what every command has in common.

Nothing heavy is imported before a command is known, so that ``gstds --help`` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from gstds.common.checks import near_names
from gstds.options.fields import names
from gstds.options.world import DataOptions, KeepRatioOptions
from gstds.train.agents.config import AgentConfig
from gstds.train.cli.listed import NAMES
from gstds.train.cli.use import FORMATS
from gstds.train.comparing.comparison import CompareOptions, FanOutOptions
from gstds.train.launching.torchrun import launched_rank, refuse_launcher
from gstds.train.running.options import RecordOptions, RunConfig
from gstds.train.terminal.console import settle
from gstds.train.terminal.options import Exit, Words, add_options


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the near options.

    Attributes:
        commands: Its commands' own parsers, by name.
    """

    commands: Mapping[str, Parser] = {}

    @property
    def options(self) -> list[Sequence[str]]:
        """Its options, each by all its names."""
        return [action.option_strings for action in self._actions]

    def error(self, message: str) -> NoReturn:
        """Raise the message as a ``ValueError``, which `main` writes on one line."""
        _, unknown, words = message.partition("unrecognized arguments: ")
        if unknown:
            word = words.split()[0].partition("=")[0]
            known = [text for names in self.options for text in names]
            hint, near, _ = near_names(word, known).partition("? ")
            message += f"; {hint}?" if near else ""
        raise ValueError(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; what is unknown is an error of the command that it stands behind."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            name = getattr(parsed, "command", None) or ""
            self.commands.get(name, self).error("unrecognized arguments: " + " ".join(rest))
        return parsed


def _word(name: str, metavar: str | None, about: str, **more: Any) -> Callable[[Parser], Any]:
    return lambda parser: parser.add_argument(name, metavar=metavar, help=about, **more)


def _flag(name: str, about: str) -> Callable[[Parser], Any]:
    return lambda parser: parser.add_argument(name, action="store_true", help=about)


def _options(kind: Any, **choice: Any) -> Callable[[Parser], Any]:
    return lambda parser: add_options(parser, kind, **choice)


_OWN_FILES = {"compare": "compare", "report": "compare", "doctor": "doctor"}
_OWN_FILES |= {"predict": "use", "export": "use", "kept": "kept", "clean": "clean"}
_EXAMPLE = "compare --policies gstds random full --seeds 3 --dataset digits"
_TEACH = "learn --agent ppo --steps 20000 --instances small-train --held-out small-held-out"
_TALK = "under torchrun, how processes talk: gloo, nccl or auto (default: auto)"
_CODE = "the comparison's data set, if it is a module:function: without its name none is run"
_KINDS = ", ".join(NAMES)
_record = partial(_options, RecordOptions, defaults=True)
_store = partial(_record, only=("tracking_uri", "experiment"))
# What a command does, an example, and what adds its options.
_COMMANDS: dict[str, tuple[Any, ...]] = {
    "run": (
        "train once under one policy",
        "run --policy gstds --dataset digits --epochs 10 --json result.json",
        _options(RunConfig),
        _record(),
        _word("--resume", "RUN_ID|DIR", "go on with a stopped run; needs no other option"),
        _word("--backend", "NAME", _TALK, default="auto"),
    ),
    "compare": (
        "train under several policies and seeds, and compare: a table, plots, a report",
        _EXAMPLE,
        _options(CompareOptions),
        _options(RunConfig, skip=("policy", "seed")),
        _record(),
    ),
    "predict": (
        "say which classes images are of, by the network that a run has trained",
        "predict runs/one photo.png",
        _word("run", "RUN_ID|DIR", "the run"),
        _word("inputs", "INPUT", "image files, folders of them, or .npz files", nargs="+"),
        _record(only=("json", "tracking_uri")),
    ),
    "export": (
        "write the network that a run has trained, for programs that know nothing of gstds",
        "export runs/one --to onnx network.onnx",
        _word("run", "RUN_ID|DIR", "the run"),
        _word("--to", "FORMAT", ", ".join(FORMATS), required=True, choices=FORMATS),
        _word("file", "FILE|NAME", "the file, or the name in MLflow's model registry"),
        _record(only=("tracking_uri",)),
    ),
    "kept": (
        "say which samples a run kept most and least, draw them, and write them for other tools",
        "kept runs/one --top 20 --least 20 --by class --html kept.html",
        _word("run", "RUN_ID|DIR", "the run"),
        _word("--top", "K", "the samples kept most (default: 10)", type=int, default=10),
        _word("--least", "K", "the samples kept least (default: 10)", type=int, default=10),
        _word("--by", "class", "a table by class too", choices=("class",)),
        _word("--to", "FILE", "write a row for each sample of each step: .parquet or .csv"),
        _word("--filter", "FILE", "write the positions of the samples kept most, a JSON list"),
        _word("--share", "SHARE", "share of them (default: .5)", type=float, default=0.5),
        _word("--html", "FILE", "write a page with tables and images"),
        _word("--dataset", "NAME", _CODE.replace("comparison", "run")),
        _record(only=("json", "tracking_uri")),
    ),
    "features": (
        "compute or check the reference's features and losses of a data set",
        "features --dataset fashion-mnist --limit 10000",
        _options(DataOptions, skip=("clean_validation", "augment")),
        _options(RunConfig, only=("reference", "compress", "device")),
        _flag("--verify", "check every byte of the store"),
        _flag("--rebuild", "delete the store and make it anew"),
        _options(FanOutOptions, only=("ray",), defaults=True),
    ),
    "report": (
        "write report.html and report.md of a comparison",
        "report runs/first",
        _word("comparison", "COMPARISON|DIR", "its folder, or its name in the tracking store"),
        _word("--dataset", "NAME", _CODE),
        _store(),
    ),
    "ui": (
        "open the runs in the MLflow UI",
        "ui --port 5000",
        _word("--port", None, "port (default: 5000)", type=int, default=5000),
        _word("--host", None, "address (default: 127.0.0.1)", default="127.0.0.1"),
        _store(),
        _word("--comparison", "NAME", "open on this comparison (default: the newest)"),
    ),
    "sync": (
        "deliver to MLflow what a dead or disconnected run left in its spool",
        "sync runs",
        _word("folder", None, "where to look (default: here)", nargs="?", default="."),
        _record(only=("tracking_uri",)),
    ),
    "clean": (
        "show what is needed no more (old checkpoints, replaced runs, features), and delete it",
        "clean runs",
        _word("folder", None, "where to look for runs (default: runs)", nargs="?", default="runs"),
        _word("--days", "D", "features unused so long (default: 30)", type=float, default=30.0),
        _flag("--yes", "delete it"),
    ),
    "list": ("list what has a name", "list policies", _word("kind", "KIND", _KINDS, nargs="?")),
    "data": (
        "bring a data set to this machine, unless it is here",
        "data fetch fashion-mnist",
        _word("action", "fetch", "what to do", choices=("fetch",)),
        _word("name", "NAME", "a name of `gstds list datasets`"),
    ),
    "check": (
        "check policies of your own in seconds: what they declare, remember, and answer",
        "check my_file:MyPolicy",
        _word("policies", "POLICY", "a name, or module:Class", nargs="+", action=Words),
        _record(only=("json",)),
    ),
    "doctor": (
        "say what is installed, which devices, data and weights can be had, and what to mend",
        "doctor",
    ),
    "learn": (
        "teach an agent to set the keep ratio, in gstds/KeepRatio-v0",
        f"{_TEACH} --out runs/agent",
        _options(AgentConfig),
        _options(KeepRatioOptions, skip=(*names(AgentConfig), "observe", "w_max")),
        _word("--register", "NAME", "put the best into MLflow's model registry"),
        _word("--resume", "DIR", "go on with a stopped one; needs no other option"),
        _record(only=("out", "json", "tracking_uri", "experiment", "no_tracking")),
    ),
}


def build_parser() -> Parser:
    """Return the parser of the command line."""
    from gstds import __version__

    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    common.add_argument("--quiet", action="store_true", help="show no progress")
    looks: dict[str, Any] = {"allow_abbrev": False}
    looks["formatter_class"] = argparse.RawDescriptionHelpFormatter
    purpose = "Train deep networks on the samples of each batch that are worth it."
    example = f"example: gstds {_EXAMPLE}"
    parser = Parser(prog="gstds", description=purpose, epilog=example, **looks)
    parser.add_argument("--version", action="version", version=f"gstds {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (about, example, *additions) in _COMMANDS.items():
        texts: dict[str, Any] = {"help": about, "description": f"{about[0].upper()}{about[1:]}."}
        epilog = f"example: gstds {example}"
        one = commands.add_parser(name, parents=[common], epilog=epilog, **texts, **looks)
        for add in additions:
            add(one)
    parser.commands = commands.choices
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0 is done, 1 a run failed, 2 bad input, 130 interrupted.
    """
    # OpenMP's threads spin while they wait: beside any other process that makes a step up to 20
    # times slower. Sleeping costs a few percent on an idle machine. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter shows its code: nothing fails for a λ.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    for name in () if debug else ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        arguments = parse_words(words)
        if arguments.command != "run":
            refuse_launcher(arguments.command)
        room = _OWN_FILES.get(arguments.command, "commands")
        commands = importlib.import_module(f"gstds.train.cli.{room}")
        return int(getattr(commands, f"do_{arguments.command}")(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("gstds: interrupted\n")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return Exit.DONE
    except Exception as error:
        return _complain(error, debug)


def parse_words(words: Sequence[str]) -> argparse.Namespace:
    """Return the words' options, those of ``--config FILE`` where the words have none."""
    parser = build_parser()
    arguments: argparse.Namespace = parser.parse_args(words)
    if getattr(arguments, "config", None):
        from gstds.train.running.options import take_defaults

        take_defaults(parser.commands[arguments.command], arguments.config)
        arguments = parser.parse_args(words)
        arguments.config = None
    return arguments


def _complain(error: Exception, debug: bool) -> int:
    """Write one line on standard error, or the traceback; return the exit code."""
    settle(refused=True)
    if debug:
        traceback.print_exception(error)
    kind = type(error).__name__
    text = " ".join(str(error).split()) or kind
    with contextlib.suppress(ValueError):  # of a launcher's variables, which is the error then
        rank = launched_rank()
        text = f"(process {rank}) {text}" if rank else text
    refused = isinstance(error, ValueError | TypeError | OSError | ImportError)
    if refused:
        text = f"error: {text}"
    elif kind != "RunFailedError":
        hint = "" if debug else " (--debug shows the traceback)"
        text = f"failed: {kind}: {text}{hint}"
    sys.stderr.write(f"gstds: {text}\n")
    return Exit.BAD_INPUT if refused else Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
