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
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gstds.common.checks import near_names
from gstds.options.fields import names
from gstds.options.world import DataOptions
from gstds.train.cli.learn import add_learn
from gstds.train.comparing.comparison import CompareOptions, ExperimentOptions, FanOutOptions
from gstds.train.launching.started_by_torchrun import launched_rank, refuse_launcher
from gstds.train.running.options import RecordOptions, RunConfig
from gstds.train.terminal.console import settle
from gstds.train.terminal.exit_codes import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
)
from gstds.train.terminal.listed import TABLES
from gstds.train.terminal.options import add_options

__all__ = ["Parser", "build_parser", "main", "parse_words"]

_LARGE = {"compare": "compare", "report": "compare", "experiment": "experiment", "learn": "learn"}
"""The commands that have a file of their own."""


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
        raise ValueError(message + self._hint(message))

    def _hint(self, message: str) -> str:
        _, marker, unknown = message.partition("unrecognized arguments: ")
        if not marker:
            return ""
        known = [text for names in self.options for text in names]
        word = unknown.split()[0].partition("=")[0]
        near = near_names(word, known)
        return f"; {near.partition('? ')[0]}?" if near.startswith("did you mean") else ""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; what is unknown is an error of the command that it stands behind."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            name = getattr(parsed, "command", None) or ""
            self.commands.get(name, self).error("unrecognized arguments: " + " ".join(rest))
        return parsed


class _Help(argparse.HelpFormatter):
    """Help whose example stands on one line, so that it can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return indent + text
        return super()._fill_text(text, width, indent)


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="train once under one policy",
        description="Train once under one policy.",
        epilog="example: gstds run --policy gstds --dataset digits --epochs 10 --json result.json",
    )
    add_options(parser, RunConfig)
    add_options(parser, RecordOptions, defaults=True)
    parser.add_argument(
        "--resume", metavar="RUN_ID|DIR", help="go on with a stopped run; needs no other option"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="under torchrun, how processes talk: gloo, nccl or auto (default: auto)",
    )


def _add_comparisons(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="train under several policies and seeds, and compare",
        description="Train under several policies and seeds; end with a table, a plot and a link.",
        epilog="example: gstds compare --policies gstds random full --seeds 3 --dataset digits",
    )
    add_options(parser, CompareOptions)
    add_options(parser, RunConfig, skip=("policy", "seed"))
    add_options(parser, RecordOptions, defaults=True)
    parser = commands.add_parser(
        "experiment",
        help="run one of the paper's open checks",
        description="Run one of the paper's open checks: a table, a plot, and the command.",
        epilog="example: gstds experiment schedules --dataset fashion-mnist --limit 10000",
    )
    parser.add_argument(
        "name", metavar="NAME", help="sanity, schedules, reference, components or overhead"
    )
    add_options(parser, ExperimentOptions)
    add_options(parser, RunConfig, skip=("policy", "seed", "dataset"))
    add_options(parser, RecordOptions, defaults=True)


def _add_features(commands: Any) -> None:
    parser = commands.add_parser(
        "features",
        help="compute or check the reference's features of a data set",
        description="Compute the reference's features and losses, or check what is cached.",
        epilog="example: gstds features --dataset fashion-mnist --limit 10000",
    )
    unread = ("clean_validation", "augment")
    more = ("reference", "compress", "device")
    add_options(parser, RunConfig, only=[*names(DataOptions), *more], skip=unread)
    parser.add_argument("--verify", action="store_true", help="check every byte of the store")
    parser.add_argument("--rebuild", action="store_true", help="delete the store and make it anew")
    add_options(parser, FanOutOptions, only=("ray",), defaults=True)


def _add_small_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="write report.html and report.md of a comparison",
        epilog="example: gstds report runs/first",
    )
    parser.add_argument(
        "comparison", metavar="COMPARISON|DIR", help="its folder, or its name in the tracking store"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="the comparison's data set, if it is a module:function: without its name none is run",
    )
    add_options(parser, RecordOptions, only=("tracking_uri", "experiment"), defaults=True)
    parser = commands.add_parser(
        "ui", help="open the runs in the MLflow UI", epilog="example: gstds ui --port 5000"
    )
    parser.add_argument("--port", type=int, default=5000, help="port (default: 5000)")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    add_options(parser, RecordOptions, only=("tracking_uri", "experiment"), defaults=True)
    parser.add_argument(
        "--comparison", metavar="NAME", help="open on this comparison (default: the newest)"
    )
    parser = commands.add_parser(
        "sync",
        help="deliver to MLflow what a dead or disconnected run left in its spool",
        epilog="example: gstds sync runs",
    )
    parser.add_argument("folder", nargs="?", default=".", help="where to look (default: here)")
    add_options(parser, RecordOptions, only=("tracking_uri",), defaults=True)
    parser = commands.add_parser(
        "list", help="list what has a name", epilog="example: gstds list policies"
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(TABLES))
    parser = commands.add_parser(
        "data", help="data sets", epilog="example: gstds data fetch digits"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    fetch = actions.add_parser(
        "fetch",
        help="bring a data set here",
        description="Bring a data set to this machine, unless it is here.",
        epilog="example: gstds data fetch fashion-mnist",
        formatter_class=_Help,
    )
    fetch.add_argument("name", metavar="NAME", help="a name of `gstds list datasets`")
    commands.add_parser(
        "doctor",
        help="say what is installed, and what can be had",
        description="Say what is installed, which devices, data and weights can be had, and what "
        "to mend.",
        epilog="example: gstds doctor",
    )


def build_parser() -> Parser:
    """Return the parser of the command line."""
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    common.add_argument("--quiet", action="store_true", help="show no progress")
    parser = Parser(
        prog="gstds",
        description="Train deep networks on the samples of each batch that are worth it.",
        epilog="example: gstds compare --policies gstds random full --seeds 3 --dataset digits",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    adder = commands.add_parser

    def add_parser(name: str, **kwargs: Any) -> Any:
        return adder(name, parents=[common], allow_abbrev=False, formatter_class=_Help, **kwargs)

    commands.add_parser = add_parser  # type: ignore[method-assign]
    for add in (_add_run, _add_comparisons, _add_features, _add_small_commands, add_learn):
        add(commands)
    parser.commands = commands.choices
    return parser


def _version() -> str:
    from gstds import __version__

    return f"gstds {__version__}"


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
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    if not debug:
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
    try:
        return _dispatch(parse_words(words))
    except KeyboardInterrupt:
        sys.stderr.write("gstds: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_DONE
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
    text = " ".join(str(error).split()) or type(error).__name__
    with contextlib.suppress(ValueError):  # of a launcher's variables, which is the error then
        rank = launched_rank()
        text = f"(process {rank}) {text}" if rank else text
    if type(error).__name__ == "RunFailedError":
        sys.stderr.write(f"gstds: {text}\n")
        return EXIT_FAILED
    if isinstance(error, ValueError | TypeError | OSError | ImportError):
        sys.stderr.write(f"gstds: error: {text}\n")
        return EXIT_BAD_INPUT
    hint = "" if debug else " (--debug shows the traceback)"
    sys.stderr.write(f"gstds: failed: {type(error).__name__}: {text}{hint}\n")
    return EXIT_FAILED


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command != "run":
        refuse_launcher(arguments.command)
    room = _LARGE.get(arguments.command, "commands")
    commands = importlib.import_module(f"gstds.train.cli.{room}")
    code: int = getattr(commands, f"do_{arguments.command}")(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
