"""What each command of the command line does, but for those that compare."""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.checksummed_json import read_sealed
from gstds.common.files import cache_root, write_json
from gstds.options.fields import names
from gstds.options.world import KeepRatioOptions
from gstds.train.agents.config import AgentConfig
from gstds.train.cli.listed import TABLES, listed
from gstds.train.launching.torchrun import follow, launched_rank, process_group
from gstds.train.running.options import RunConfig, config_from
from gstds.train.terminal import options as words
from gstds.train.terminal.console import Console, announce, out, say

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
        folder = _find_run(arguments)
        note, config = read_configuration(folder)
        _refuse_changes(config, asked)
        _same_record(arguments, note)
    else:
        config = config_from(asked)
        run = f"policy {config.policy} on {config.dataset}, {config.epochs} epochs"
        announce(f"training {config.learner}: {run}, seed {config.seed}", quiet=arguments.quiet)
        _refuse_an_idle_schedule(config, asked)
        folder = words.place_for(arguments, "run", touch=launched_rank() == 0)
    with process_group(config, arguments.backend) as group:
        if group.leads:
            return _lead(arguments, config, folder, group)
        status = follow(config, folder, group, resume=bool(arguments.resume))
    return words.code_of([status])


def _refuse_an_idle_schedule(config: RunConfig, asked: dict[str, Any]) -> None:
    """Refuse options of a schedule for a policy that follows none: they would change nothing.

    In a comparison they are for those of its policies that do.
    """
    from gstds.policies.registry import refuse_idle_schedule

    usual = RunConfig()
    names = ("keep", "schedule", "schedule_params")
    idle = {n: asked[n] for n in names if n in asked and asked[n] != getattr(usual, n)}
    refuse_idle_schedule(config.policy, idle, lambda own: f"--policy-params {' '.join(own)}")


def read_configuration(folder: Path) -> tuple[dict[str, Any], RunConfig]:
    """Return what a run's folder notes of how it was begun, and its configuration.

    Raises:
        ValueError: If there is none that can be read.
    """
    try:
        note = read_sealed(folder / "config.json")
        return note, config_from(note["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--resume {str(folder)!r}: no readable config.json there ({error})"
        ) from error


def _refuse_changes(config: RunConfig, asked: dict[str, Any]) -> None:
    """Refuse options that differ from those that the run was started with."""
    for name, value in asked.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"--resume goes on with {name} = {getattr(config, name)!r}, which the run was "
                f"started with, got {value!r}; leave the option out, or start a new run"
            )


def _same_record(arguments: Arguments, note: dict[str, Any]) -> None:
    """Let a resumed run go on with the record that it began; ``--tracking-uri`` still wins."""
    if "tracking" not in note or arguments.tracking_uri:
        return
    tracking = note["tracking"]
    if tracking is None:
        arguments.no_tracking = True
        return
    known = tracking if isinstance(tracking, dict) else {}
    uri, experiment = known.get("uri", 0), known.get("experiment")
    if not isinstance(uri, str | None) or not isinstance(experiment, str):
        raise ValueError(
            f"--resume {arguments.resume!r}: config.json there names no record ({tracking!r})"
        )
    arguments.tracking_uri, arguments.experiment = uri, experiment


def _find_run(arguments: Arguments) -> Path:
    if Path(arguments.resume).is_dir():
        return Path(arguments.resume)
    from gstds.train.tracking.delivery import folder_of
    from gstds.train.tracking.store import tracking_uri

    try:
        return folder_of(arguments.resume, tracking_uri(arguments.tracking_uri))
    except Exception as error:
        raise ValueError(
            f"--resume {arguments.resume!r} is neither a folder nor the id of a run in the "
            "tracking store"
        ) from error


def _lead(arguments: Arguments, config: RunConfig, folder: Path, group: Group) -> int:
    from gstds.train.figures.tables import metric_table
    from gstds.train.running.ending import RunFailedError, StopFlag
    from gstds.train.running.folder import finished_result
    from gstds.train.running.run import execute
    from gstds.train.running.setup import make_run_policy
    from gstds.train.tracking.delivery import read_target
    from gstds.train.tracking.uploader import Upload

    make_run_policy(config)
    uri = None
    if not (arguments.resume and finished_result(folder)):
        uri = words.open_tracking(arguments)
    try:
        with Console(quiet=arguments.quiet) as console:
            result = execute(
                config,
                folder,
                upload=Upload(uri, arguments.experiment) if uri else None,
                stop=StopFlag(),
                resume=bool(arguments.resume),
                checkpoint_every=arguments.checkpoint_every,
                progress=console,
                note=console.note,
                command=words.command_line(),
                group=group,
            )
    except RunFailedError as failure:
        try:
            _write_json(arguments, failure.result)
        except OSError as error:  # what the run died of is the message
            _log.warning("--json %r was not written: %s", arguments.json, error)
        raise
    _write_json(arguments, result)
    out(metric_table("runs", [result]).text())
    out(f"\nresult: {folder / 'result.json'}")
    if result["status"] == "interrupted":
        out(f"go on with: gstds run --resume {folder}")
    elif read_target(folder):
        out("open the UI: gstds ui")
    return words.code_of([result["status"]])


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
    from gstds.train.agents.learn import learn, load_agent_config
    from gstds.train.running.ending import StopFlag, interruptible
    from gstds.train.tracking.uploader import Upload

    words.begin(arguments)
    if arguments.resume:
        folder, config = Path(arguments.resume), load_agent_config(Path(arguments.resume))
    else:
        config = AgentConfig(**_agent_options(arguments))
        folder = words.place_for(arguments, "learn")
    uri = words.open_tracking(arguments)
    if arguments.register and not uri:
        raise ValueError("--register needs the MLflow store that --no-tracking leaves out")
    stop = StopFlag()
    with interruptible(stop), Console(quiet=arguments.quiet) as console:
        result = learn(
            config,
            folder,
            upload=Upload(uri, arguments.experiment) if uri else None,
            stop=stop,
            resume=bool(arguments.resume),
            command=words.command_line(),
            progress=console,
            note=None if arguments.quiet else say,
        )
    if arguments.json:
        write_json(arguments.json, result)
    cost, best = result["cost"], result["best"]
    out(
        f"{result['status']}: {cost['episodes']} episodes, {cost['decisions']} decisions, "
        f"{cost['charged_flops']:.3g} FLOP, {cost['seconds']:.0f} s"
    )
    if best:
        out(
            f"best on held-out instances: accuracy {100 * best['accuracy']:.2f}%, mean keep "
            f"{best['mean_keep']:.3f}, after {best['steps']} decisions"
        )
    if result["status"] == "interrupted":
        out(f"go on with: gstds learn --resume {folder}")
    else:
        out(f"use it: gstds run --policy learned:{folder / 'best'} --setting equal-budget")
    if result["status"] != "finished":
        return words.Exit.INTERRUPTED
    if arguments.register and uri:
        from gstds.train.agents.registry import register_agent

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no example of an input goes with it
            out(f"registered: {register_agent(folder / 'best', arguments.register, uri)}")
    return words.Exit.DONE


def _agent_options(arguments: Arguments) -> dict[str, Any]:
    options = words.given(arguments, AgentConfig)
    for name in ("instances", "held_out"):
        text = str(options.get(name, ""))
        if text.startswith("["):
            try:
                options[name] = list(json.loads(text))
            except ValueError as error:
                raise ValueError(
                    f"{name} must be a set's name or a JSON list, got {text!r}"
                ) from error
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
        raise ValueError(
            f"nothing was tracked in {mask_secrets(uri)}: there is no such file; start where the "
            "runs were made, or name their store by --tracking-uri"
        )
    return open_ui(
        arguments.tracking_uri,
        port=arguments.port,
        host=arguments.host,
        experiment=arguments.experiment,
        comparison=arguments.comparison,
        echo=out,
    )


def do_sync(arguments: Arguments) -> int:
    """Deliver to MLflow what is not there yet."""
    from gstds.train.tracking.uploader import sync

    counts = sync(arguments.folder, arguments.tracking_uri)
    out(f"{sum(counts.values())} records of {len(counts)} runs delivered")
    return words.Exit.DONE


def do_list(arguments: Arguments) -> int:
    """List names with descriptions."""
    for kind in TABLES if arguments.kind is None else (arguments.kind,):
        found = listed(kind)
        if arguments.kind is None:
            out(f"{kind}:")
        width = max((len(name) for name in found), default=0)
        for name, text in found.items():
            plain = arguments.kind is not None and not sys.stdout.isatty()
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
        figures = report.figures
        if len(figures) == 2:
            speed = f", {figures['ms_per_answer']:.2f} ms to answer a batch of 128"
            out(f"  keeps {figures['mean_keep']:.3f} of what is drawn{speed}")
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
        store = reference.store
        if arguments.verify:
            store.verify()
    verified = " verified" * arguments.verify
    out(f"store: {store.path} ({store.rows} rows of {store.dim}){verified}")
    out(
        f"probe: {100 * reference.accuracy:.2f}% on samples it was not fitted to, "
        f"mean loss {float(reference.losses.mean()):.4f} nats"
    )
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
