"""The command ``gstds learn``: its options, and what it does."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from gstds.common.checks import check_integer
from gstds.common.files import write_json
from gstds.train.terminal.arguments import (
    command_line,
    new_folder,
    open_tracking,
    touch_folder,
    user_folder_on_path,
)

__all__ = ["add_learn", "do_learn"]

_ENV = ("dataset", "limit", "label_noise", "split_seed", "learner", "batch_size", "epochs")
_ENV_MORE = ("budget", "reference", "device", "evaluations")
_PLAIN = ("agent", "steps", "seed", "instances", "held_out", "action", "evaluate_every")


def add_learn(commands: Any, key_value: Any, add_options: Any) -> None:
    """Add the command's parser.

    Args:
        commands: The subparsers.
        key_value: Parses KEY=VALUE.
        add_options: Adds the options of a run to a parser, but those to skip.
    """
    from dataclasses import fields

    from gstds.train.running.options import RunConfig

    parser = commands.add_parser(
        "learn",
        help="teach an agent to set the keep ratio",
        description="Teach an agent to set the keep ratio, in gstds/KeepRatio-v0.",
        epilog="example: gstds learn --agent ppo --steps 20000 --instances small-train "
        "--held-out small-held-out --out runs/agent",
    )
    gone: dict[str, Any] = {"default": argparse.SUPPRESS}
    add = parser.add_argument
    add("--agent", help="ppo, a2c, dqn, sac, recurrent-ppo (default: ppo)", **gone)
    add("--agent-params", nargs="+", type=key_value, metavar="KEY=VALUE", default=[],
        help="parameters of the library's class")  # fmt: skip
    add("--steps", type=int, help="decisions to learn from (default: 20000)", **gone)
    add("--seed", type=int, help="seed of the agent (default: 0)", **gone)
    add("--instances", help="set to learn on, or a JSON list (default: small-train)", **gone)
    add("--held-out", help="set to choose on, or a JSON list (default: small-held-out)", **gone)
    add("--action", help="discrete or box (default: what suits the agent)", **gone)
    add("--ratios", nargs="+", type=float, metavar="R", help="keep ratios to choose from", **gone)
    add("--interval", type=int, help="drawn batches between decisions (default: 4)", **gone)
    add("--picker", help="hybrid, uniform or learnability (default: hybrid)", **gone)
    add(
        "--reward",
        help="a name of gstds.envs.task.rewards.AGENT_REWARDS (default: validation-loss)",
        **gone,
    )
    add("--price", type=float, help="nats that a whole budget costs (default: 0.1)", **gone)
    add("--centered", action="store_true", help="reward what is better than random keep", **gone)
    add("--target-accuracy", type=float, help="for time-to-accuracy (default: 0.7)", **gone)
    add("--evaluate-every", type=int, help="decisions between evaluations (2000)", **gone)
    add("--shuffle-rewards", action="store_true", help="a control: rewards in any order", **gone)
    add("--register", metavar="NAME", help="put the best into MLflow's model registry")
    add("--resume", metavar="DIR", help="go on with a stopped one; needs no other option")
    add("--out", metavar="DIR", help="folder (default: a new one in runs/)")
    add("--json", metavar="FILE", help="write the result for programs")
    add("--tracking-uri", metavar="URI", help="MLflow store, as for run")
    add("--experiment", default="gstds", help="MLflow experiment (default: gstds)")
    add("--no-tracking", action="store_true", help="keep no record in MLflow")
    keep = {*_ENV, *_ENV_MORE}
    add_options(parser, skip=tuple(f.name for f in fields(RunConfig) if f.name not in keep))


def do_learn(arguments: argparse.Namespace) -> int:
    """Teach an agent."""
    from gstds.train.agents.learn import AgentConfig, learn, load_agent_config
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
    given = vars(arguments)
    options = {name: given[name] for name in _PLAIN if name in given}
    for name in ("instances", "held_out"):
        if str(options.get(name, "")).startswith("["):
            options[name] = _json_list(name, options[name])
    more = ("ratios", "interval", "picker", "reward", "price", "centered", "target_accuracy")
    env = {name: given[name] for name in (*_ENV, *_ENV_MORE, *more) if name in given}
    if "interval" in env:
        check_integer("interval", env["interval"], low=1)
    options["agent_params"] = dict(arguments.agent_params)
    options["shuffle_rewards"] = bool(given.get("shuffle_rewards", False))
    return options | {"env": env}


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
