"""The command ``gstds learn``: its options, and what it does."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from gstds.common.files import write_json
from gstds.options.fields import names
from gstds.options.world import KeepRatioOptions
from gstds.train.agents.config import AgentConfig
from gstds.train.running.options import RecordOptions
from gstds.train.terminal.arguments import (
    command_line,
    new_folder,
    open_tracking,
    touch_folder,
    user_folder_on_path,
)
from gstds.train.terminal.options import add_options, given

__all__ = ["add_learn", "do_learn"]

_ENV = [name for name in names(KeepRatioOptions) if name not in names(AgentConfig)]


def add_learn(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "learn",
        help="teach an agent to set the keep ratio",
        description="Teach an agent to set the keep ratio, in gstds/KeepRatio-v0.",
        epilog="example: gstds learn --agent ppo --steps 20000 --instances small-train "
        "--held-out small-held-out --out runs/agent",
    )
    add_options(parser, AgentConfig)
    add_options(parser, KeepRatioOptions, only=_ENV, skip=("observe", "w_max"))
    parser.add_argument(
        "--register", metavar="NAME", help="put the best into MLflow's model registry"
    )
    parser.add_argument(
        "--resume", metavar="DIR", help="go on with a stopped one; needs no other option"
    )
    record = ("out", "json", "tracking_uri", "experiment", "no_tracking")
    add_options(parser, RecordOptions, only=record, defaults=True)


def do_learn(arguments: argparse.Namespace) -> int:
    """Teach an agent."""
    from gstds.train.agents.learn import learn, load_agent_config
    from gstds.train.running.run import StopFlag, interruptible
    from gstds.train.terminal.console import Console, say
    from gstds.train.terminal.exit_codes import EXIT_DONE, EXIT_INTERRUPTED
    from gstds.train.tracking.uploader import Upload

    user_folder_on_path()
    if arguments.resume:
        folder, config = Path(arguments.resume), load_agent_config(Path(arguments.resume))
    else:
        config = AgentConfig(**_options(arguments))
        folder = Path(arguments.out) if arguments.out else new_folder("learn")
        touch_folder(folder)
    uri = open_tracking(arguments)
    if arguments.register and not uri:
        raise ValueError("--register needs the MLflow store that --no-tracking leaves out")
    upload = Upload(uri, arguments.experiment) if uri else None
    stop = StopFlag()
    with interruptible(stop), Console(quiet=arguments.quiet) as console:
        result = learn(
            config,
            folder,
            upload=upload,
            stop=stop,
            resume=bool(arguments.resume),
            command=command_line(),
            progress=console,
            note=None if arguments.quiet else say,
        )
    if arguments.json:
        write_json(arguments.json, result)
    _show(result, folder)
    if arguments.register and uri and result["status"] == "finished":
        from gstds.train.agents.registry import register_agent

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no example of an input goes with it
            where = register_agent(folder / "best", arguments.register, uri)
        sys.stdout.write(f"registered: {where}\n")
    return EXIT_DONE if result["status"] == "finished" else EXIT_INTERRUPTED


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    options = given(arguments, AgentConfig)
    for name in ("instances", "held_out"):
        if str(options.get(name, "")).startswith("["):
            options[name] = _json_list(name, options[name])
    env = given(arguments, KeepRatioOptions)
    return options | {"env": {name: env[name] for name in _ENV if name in env}}


def _json_list(name: str, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} must be a set's name or a JSON list, got {text!r}") from error
    return list(value)


def _show(result: dict[str, Any], folder: Path) -> None:
    write = sys.stdout.write
    cost, best = result["cost"], result["best"]
    write(
        f"{result['status']}: {cost['episodes']} episodes, {cost['decisions']} decisions, "
        f"{cost['charged_flops']:.3g} FLOP, {cost['seconds']:.0f} s\n"
    )
    if best:
        write(
            f"best on held-out instances: accuracy {100 * best['accuracy']:.2f}%, mean keep "
            f"{best['mean_keep']:.3f}, after {best['steps']} decisions\n"
        )
    if result["status"] == "interrupted":
        write(f"go on with: gstds learn --resume {folder}\n")
    else:
        write(f"use it: gstds run --policy learned:{folder / 'best'} --setting equal-budget\n")
