"""What each command of the command line does, but for those that compare."""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.checksummed_json import read_sealed
from gstds.common.files import cache_root, write_json
from gstds.options.fields import names
from gstds.options.world import KeepRatioOptions
from gstds.train.agents.config import AgentConfig
from gstds.train.cli.listed import NAMES, listed
from gstds.train.launching.torchrun import launched_rank, process_group
from gstds.train.running.ending import RunFailedError, StopFlag, interruptible
from gstds.train.running.options import RunConfig, config_from
from gstds.train.terminal import options as words
from gstds.train.terminal.console import Console, announce, out

if TYPE_CHECKING:
    from gstds.common.process_group import Group

_log = logging.getLogger(__name__)
Arguments = argparse.Namespace


# ---------------------------------------------------------------------------------- run


def do_run(arguments: Arguments) -> int:
    """Train once under one policy."""
    words.begin(arguments)
    asked = words.given(arguments, RunConfig)
    if arguments.resume:
        from gstds.train.tracking.delivery import find_run

        folder = find_run("--resume", arguments.resume, arguments.tracking_uri)
        note, config = read_configuration(folder)
        for name, value in asked.items():
            if getattr(config, name) != value:
                raise ValueError(
                    f"--resume goes on with {name} = {getattr(config, name)!r}, which the run was "
                    f"started with, got {value!r}; leave the option out, or start a new run"
                )
        _same_record(arguments, note)
        arguments.no_model |= "--no-model" in str(note.get("command"))
    else:
        config = config_from(asked)
        run = f"policy {config.policy} on {config.dataset}, {config.epochs} epochs"
        announce(f"training {config.learner}: {run}, seed {config.seed}", quiet=arguments.quiet)
        _refuse_an_idle_schedule(config, asked)
        folder = words.place_for(arguments, "run", touch=launched_rank() == 0)
    with process_group(config, arguments.backend) as group:
        if group.leads:
            return _lead(arguments, config, folder, group)
        from gstds.train.running.run import execute

        # The first process evaluates, and writes checkpoints and the record; this one trains.
        resume = bool(arguments.resume)
        result = execute(config, folder, group=group, stop=StopFlag(), resume=resume)
    return words.code_of([result["status"]])


def _refuse_an_idle_schedule(config: RunConfig, asked: dict[str, Any]) -> None:
    """Refuse options of a schedule for a policy that follows none: they would change nothing.

    In a comparison they are for those of its policies that do.
    """
    from gstds.policies.registry import refuse_idle_schedule

    usual = RunConfig()
    names = ("keep", "schedule", "schedule_params")
    idle = {n: asked[n] for n in names if n in asked and asked[n] != getattr(usual, n)}
    refuse_idle_schedule(config.policy, idle, lambda own: f"--policy-params {' '.join(own)}")


def read_configuration(
    folder: Path, make: Callable[[Any], Any] = config_from
) -> tuple[dict[str, Any], Any]:
    """Return what a folder notes of how its run was begun, and its configuration.

    Args:
        folder: The folder.
        make: Makes the configuration of the options noted.

    Raises:
        ValueError: If there is none that can be read.
    """
    try:
        note = read_sealed(folder / "config.json")
        return note, make(note["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no readable config.json there ({error})"
        raise ValueError(f"--resume {str(folder)!r}: {what}") from error


def _same_record(arguments: Arguments, note: dict[str, Any]) -> None:
    """Let a resumed run go on with the record that it began; ``--tracking-uri`` still wins."""
    if "tracking" not in note or arguments.tracking_uri:
        return
    match note["tracking"]:
        case None:
            arguments.no_tracking = True
        case {"uri": str() | None as uri, "experiment": str() as experiment}:
            arguments.tracking_uri, arguments.experiment = uri, experiment
        case other:
            what = f"config.json there names no record ({other!r})"
            raise ValueError(f"--resume {arguments.resume!r}: {what}")


def _lead(arguments: Arguments, config: RunConfig, folder: Path, group: Group) -> int:
    from gstds.train.figures.tables import metric_table
    from gstds.train.running.folder import finished_result
    from gstds.train.running.run import execute
    from gstds.train.running.setup import make_run_policy
    from gstds.train.tracking.delivery import read_target
    from gstds.train.tracking.uploader import add_network

    make_run_policy(config)
    over = arguments.resume and finished_result(folder)
    upload = None if over else words.asked_tracking(arguments)
    try:
        with Console(quiet=arguments.quiet) as console:
            how = _how(arguments, console) | {"checkpoint_every": arguments.checkpoint_every}
            result = execute(config, folder, upload=upload, stop=StopFlag(), group=group, **how)
    except RunFailedError as failure:
        try:
            _write_json(arguments, failure.result)
        except OSError as error:  # what the run died of is the message
            _log.warning("--json %r was not written: %s", arguments.json, error)
        raise
    if not (arguments.no_model or arguments.no_tracking):
        add_network(folder, arguments.tracking_uri)
    _write_json(arguments, result)
    out(metric_table("runs", [result]).text())
    out(f"\nresult: {folder / 'result.json'}")
    if result["status"] == "interrupted":
        out(f"go on with: gstds run --resume {folder}")
    elif read_target(folder):
        out("open the UI: gstds ui")
    return words.code_of([result["status"]])


def _how(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Return what a run and an agent's teaching are both told."""
    how = {"resume": bool(arguments.resume), "command": words.command_line()}
    return how | {"progress": console, "note": console.note}


def _write_json(arguments: Arguments, result: dict[str, Any]) -> None:
    from gstds.train.figures.statistics import summarize

    if arguments.json:
        name = result["policy"]
        content = {"version": 1, "baseline": name, "runs": [result]}
        content |= {"summary": summarize([result], name), "controls": [], "controls_summary": []}
        write_json(arguments.json, content)


# ---------------------------------------------------------------------------------- learn


def do_learn(arguments: Arguments) -> int:
    """Teach an agent."""
    from gstds.train.agents.learn import learn

    words.begin(arguments)
    if arguments.resume:
        folder = Path(arguments.resume)
        _, config = read_configuration(folder, lambda options: AgentConfig(**options))
    else:
        config = AgentConfig(**_agent_options(arguments))
        folder = words.place_for(arguments, "learn")
    upload = words.asked_tracking(arguments)
    if arguments.register and not upload:
        raise ValueError("--register needs the MLflow store that --no-tracking leaves out")
    stop = StopFlag()
    with interruptible(stop), Console(quiet=arguments.quiet) as console:
        result = learn(config, folder, upload=upload, stop=stop, **_how(arguments, console))
    if arguments.json:
        write_json(arguments.json, result)
    cost, best = result["cost"], result["best"]
    spent = f"{cost['charged_flops']:.3g} FLOP, {cost['seconds']:.0f} s"
    done = f"{cost['episodes']} episodes, {cost['decisions']} decisions"
    out(f"{result['status']}: {done}, {spent}")
    if best:
        reached = f"accuracy {100 * best['accuracy']:.2f}%, mean keep {best['mean_keep']:.3f}"
        out(f"best on held-out instances: {reached}, after {best['steps']} decisions")
    if result["status"] != "finished":
        out(f"go on with: gstds learn --resume {folder}")
        return words.Exit.INTERRUPTED
    out(f"use it: gstds run --policy learned:{folder / 'best'} --setting equal-budget")
    if arguments.register and upload:
        from gstds.train.agents.registry import register_agent

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no example of an input goes with it
            out(f"registered: {register_agent(folder / 'best', arguments.register, upload.uri)}")
    return words.Exit.DONE


def _agent_options(arguments: Arguments) -> dict[str, Any]:
    options = words.given(arguments, AgentConfig)
    for name in ("instances", "held_out"):
        text = str(options.get(name, ""))
        try:
            options |= {name: json.loads(text)} if text.startswith("[") else {}
        except ValueError as error:
            raise ValueError(f"{name} must be a set's name or a JSON list, got {text!r}") from error
    env = words.given(arguments, KeepRatioOptions)
    return options | {"env": {k: v for k, v in env.items() if k not in names(AgentConfig)}}


# ---------------------------------------------------------------------------------- the others


def do_ui(arguments: Arguments) -> int:
    """Serve the MLflow UI on the tracking store."""
    from gstds.train.tracking.store import mask_secrets, store_exists, tracking_uri
    from gstds.train.tracking.ui import open_ui
    from gstds.train.tracking.uploader import deliver_waiting

    uri = tracking_uri(arguments.tracking_uri)
    deliver_waiting(uri)
    if not store_exists(uri):
        mend = "start where the runs were made, or name their store by --tracking-uri"
        raise ValueError(f"nothing was tracked in {mask_secrets(uri)}: no such file; {mend}")
    asked = {n: vars(arguments)[n] for n in ("port", "host", "experiment", "comparison")}
    return open_ui(arguments.tracking_uri, echo=out, **asked)


def do_sync(arguments: Arguments) -> int:
    """Deliver to MLflow what is not there yet."""
    from gstds.train.tracking.uploader import sync

    counts = sync(arguments.folder, arguments.tracking_uri)
    out(f"{sum(counts.values())} records of {len(counts)} runs delivered")
    return words.Exit.DONE


def do_list(arguments: Arguments) -> int:
    """List names with descriptions."""
    plain = arguments.kind is not None and not sys.stdout.isatty()
    for kind in NAMES if arguments.kind is None else (arguments.kind,):
        found = listed(kind)
        if arguments.kind is None:
            out(f"{kind}:")
        width = max(map(len, found), default=0)
        for name, text in found.items():
            out(f"{name}\t{text}" if plain else f"  {name:<{width}}  {text}")
    return words.Exit.DONE


def do_check(arguments: Arguments) -> int:
    """Check policies; say what is wrong with each, where, and what to do about it."""
    from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

    from gstds.testing import Finding, Report, examine
    from gstds.train.comparing.comparison import split_name

    reports = []
    for name in arguments.policies:
        policy, parameters = split_name(name)
        try:
            with ProcessPoolExecutor(1, None, faulthandler.enable, (2,)) as apart:
                report = apart.submit(examine, policy, **parameters).result()
        except BrokenExecutor:
            mend = "what crashed says where, above; os._exit says nothing: raise an error"
            report = Report(name, findings=[Finding("its process", "it ends the process", mend)])
        reports.append(asdict(report))
        out(f"{name}: {'something was found' if report.findings else 'nothing was found'}")
        for check in report.passed:
            out(f"  passed  {check}")
        for found in report.findings:
            out(f"  FOUND   {found.check}: {found.what}\n          {found.mend}")
            out(f"          {found.where}" if found.where else "")
        if len(report.figures) == 2:
            speed = f"{report.figures['ms_per_answer']:.2f} ms to answer a batch of 128"
            out(f"  keeps {report.figures['mean_keep']:.3f} of what is drawn, {speed}")
    if arguments.json:
        write_json(arguments.json, {"version": 1, "policies": reports})
    return words.Exit.FAILED if any(one["findings"] for one in reports) else words.Exit.DONE


def do_data(arguments: Arguments) -> int:
    """Bring a data set here."""
    from gstds.envs.data.datasets import fetch_data

    path = fetch_data(arguments.name)
    out(f"{arguments.name}: {path if path else 'needs no download'}")
    return words.Exit.DONE


def do_features(arguments: Arguments) -> int:
    """Compute the reference's features and losses, unless they are cached, or check them."""
    words.begin(arguments)
    from gstds.envs.task.options import EnvOptions
    from gstds.envs.task.task import load_task

    config = config_from(words.given(arguments, RunConfig))
    with Console(quiet=arguments.quiet) as console:
        if arguments.rebuild:
            _forget_features(config)
        if arguments.ray is not None:
            from gstds.train.launching.ray_tasks import build_on_ray

            build_on_ray(config, arguments.ray, console)
        options = EnvOptions(**config.env_options(), observe=("reference_losses",))
        reference = load_task(options, console).reference
        assert reference is not None  # noqa: S101  (the observation above asks for it)
        store, verified = reference.store, " verified" if arguments.verify else ""
        if verified:
            store.verify()
    out(f"store: {store.path} ({store.rows} rows of {store.dim}){verified}")
    share, loss = 100 * reference.accuracy, float(reference.losses.mean())
    out(f"probe: {share:.2f}% on samples it was not fitted to, mean loss {loss:.4f} nats")
    costs = f"{reference.features_flops:.3g} FLOP features, {reference.probe_flops:.3g} probe"
    out(f"cost: {costs}")
    return words.Exit.DONE


def _forget_features(config: RunConfig) -> None:
    """Delete the features and what the probe made of them."""
    from gstds.envs.task.features import make_extractor, reference_store_path
    from gstds.envs.task.options import EnvOptions
    from gstds.envs.task.task import load_task, probe_fingerprint

    data = load_task(EnvOptions(**config.env_options(), observe=())).data
    reference = make_extractor(data, config.reference, config.compress)
    shutil.rmtree(reference_store_path(data, reference)[0], ignore_errors=True)
    for kind in ("losses", "logits"):
        name = f"{probe_fingerprint(data, reference)}.safetensors"
        (cache_root() / kind / name).unlink(missing_ok=True)
