"""What each command of the command line does."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.checksummed_json import read_sealed
from gstds.common.files import write_json
from gstds.train.launching.started_by_torchrun import launched_rank
from gstds.train.running.options import RunConfig, config_from
from gstds.train.terminal.arguments import (
    check_places,
    command_line,
    new_folder,
    open_tracking,
    touch_folder,
    user_folder_on_path,
)
from gstds.train.terminal.console import Console, announce, out, out_now
from gstds.train.terminal.exit_codes import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    code_of,
)
from gstds.train.terminal.listed import TABLES, listed
from gstds.train.terminal.options import given

__all__ = [
    "do_data",
    "do_doctor",
    "do_features",
    "do_list",
    "do_run",
    "do_sync",
    "do_ui",
    "read_configuration",
]

if TYPE_CHECKING:
    from gstds.common.process_group import Group

_log = logging.getLogger(__name__)
Arguments = argparse.Namespace


# ---------------------------------------------------------------------------------- run


def do_run(arguments: Arguments) -> int:
    """Train once under one policy."""
    user_folder_on_path()
    check_places(arguments)
    if arguments.resume:
        return _resume(arguments)
    asked = given(arguments, RunConfig)
    config = config_from(asked)
    what = f"policy {config.policy} on {config.dataset}, {config.epochs} epochs, seed {config.seed}"
    announce(f"training {config.learner}: {what}", quiet=arguments.quiet)
    _refuse_an_idle_schedule(config, asked)
    folder = Path(arguments.out) if arguments.out else new_folder("run")
    if launched_rank() == 0:
        touch_folder(folder)
    return _run(arguments, config, folder, resume=False)


def _refuse_an_idle_schedule(config: RunConfig, asked: dict[str, Any]) -> None:
    """Refuse options of a schedule for a policy that follows none: they would change nothing.

    In a comparison they are for those of its policies that do.
    """
    from gstds.policies.registry import follows_schedule, policy_class

    usual = RunConfig()
    names = ("keep", "schedule", "schedule_params")
    idle = [name for name in names if name in asked and asked[name] != getattr(usual, name)]
    kind = policy_class(config.policy)
    if idle and not follows_schedule(kind):
        own = [name for name in inspect.signature(kind).parameters if "picker" not in name]
        advice = (
            f"; it is set by --policy-params {' '.join(f'{n}=...' for n in own)}" if own else ""
        )
        raise ValueError(
            f"{idle[0]}: policy {config.policy!r} has a keep ratio of its own and follows no "
            f"schedule, got {asked[idle[0]]!r}; leave it out{advice}"
        )


def _resume(arguments: Arguments) -> int:
    folder = _find_run(arguments.resume, arguments)
    note, config = read_configuration(folder)
    _refuse_changes(arguments, config)
    _same_record(arguments, note)
    return _run(arguments, config, folder, resume=True)


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


def _refuse_changes(arguments: Arguments, config: RunConfig) -> None:
    """Refuse options that differ from those that the run was started with."""
    asked = given(arguments, RunConfig)
    changed = [name for name, value in asked.items() if getattr(config, name) != value]
    if changed:
        name = changed[0]
        raise ValueError(
            f"--resume goes on with {name} = {getattr(config, name)!r}, which the run was started "
            f"with, got {asked[name]!r}; leave the option out, or start a new run"
        )


def _same_record(arguments: Arguments, note: dict[str, Any]) -> None:
    """Let a resumed run go on with the record that it began; ``--tracking-uri`` still wins."""
    if "tracking" not in note or arguments.tracking_uri:
        return
    tracking = note["tracking"]
    if tracking is None:
        arguments.no_tracking = True
        return
    try:
        arguments.tracking_uri = _text(tracking["uri"], or_none=True)
        arguments.experiment = _text(tracking["experiment"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"--resume {arguments.resume!r}: config.json there names no record ({tracking!r})"
        ) from error


def _text(value: Any, *, or_none: bool = False) -> Any:
    if not isinstance(value, str) and not (or_none and value is None):
        raise TypeError(f"must be a text, got {value!r}")
    return value


def _find_run(name: str, arguments: Arguments) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from gstds.train.tracking.delivery import folder_of
    from gstds.train.tracking.store import tracking_uri

    try:
        return folder_of(name, tracking_uri(arguments.tracking_uri))
    except Exception as error:
        raise ValueError(
            f"--resume {name!r} is neither a folder nor the id of a run in the tracking store"
        ) from error


def _run(arguments: Arguments, config: RunConfig, folder: Path, *, resume: bool) -> int:
    from gstds.train.launching.torchrun import follow, process_group

    with process_group(config, arguments.backend) as group:
        if group.leads:
            return _lead(arguments, config, folder, group, resume=resume)
        status = follow(config, folder, group, resume=resume)
    return code_of([status])


def _lead(
    arguments: Arguments, config: RunConfig, folder: Path, group: Group, *, resume: bool
) -> int:
    from gstds.train.running.run import RunFailedError, StopFlag, execute, finished_result
    from gstds.train.running.setup import make_run_policy
    from gstds.train.tracking.uploader import Upload

    make_run_policy(config)
    upload = None
    if not (resume and finished_result(folder)):
        uri = open_tracking(arguments)
        upload = Upload(uri, arguments.experiment) if uri else None
    try:
        with Console(quiet=arguments.quiet) as console:
            result = execute(
                config,
                folder,
                upload=upload,
                stop=StopFlag(),
                resume=resume,
                checkpoint_every=arguments.checkpoint_every,
                progress=console,
                command=command_line(),
                group=group,
            )
    except RunFailedError as failure:
        _write_failed(arguments, failure.result)
        raise
    return _show_run(arguments, result, folder)


def _write_failed(arguments: Arguments, result: dict[str, Any]) -> None:
    if not arguments.json:
        return
    try:
        write_json(arguments.json, _run_json(result))
    except OSError as error:  # what the run died of is the message
        _log.warning("--json %r was not written: %s", arguments.json, error)


def _show_run(arguments: Arguments, result: dict[str, Any], folder: Path) -> int:
    from gstds.train.figures.tables import metric_table
    from gstds.train.tracking.delivery import read_target

    if arguments.json:
        write_json(arguments.json, _run_json(result))
    out(metric_table("runs", [result]).text())
    out(f"\nresult: {folder / 'result.json'}")
    if result["status"] == "interrupted":
        out(f"go on with: gstds run --resume {folder}")
        return EXIT_INTERRUPTED
    if read_target(folder):
        out("open the UI: gstds ui")
    return code_of([result["status"]])


def _run_json(result: dict[str, Any]) -> dict[str, Any]:
    from gstds.train.figures.statistics import summarize

    name = result["policy"]
    return {
        "version": 1,
        "baseline": name,
        "runs": [result],
        "summary": summarize([result], name),
        "controls": [],
        "controls_summary": [],
    }


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
        echo=out_now,
    )


def do_sync(arguments: Arguments) -> int:
    """Deliver to MLflow what is not there yet."""
    from gstds.train.tracking.uploader import sync

    counts = sync(arguments.folder, arguments.tracking_uri)
    out(f"{sum(counts.values())} records of {len(counts)} runs delivered")
    return EXIT_DONE


def do_list(arguments: Arguments) -> int:
    """List names with descriptions."""
    for kind in TABLES if arguments.kind is None else (arguments.kind,):
        names = listed(kind)
        if arguments.kind is None:
            out(f"{kind}:")
        width = max((len(name) for name in names), default=0)
        for name, text in names.items():
            plain = arguments.kind is not None and not sys.stdout.isatty()
            out(f"{name}\t{text}" if plain else f"  {name:<{width}}  {text}")
    return EXIT_DONE


def do_data(arguments: Arguments) -> int:
    """Bring a data set here."""
    from gstds.envs.data.datasets import fetch_data

    path = fetch_data(arguments.name)
    out(f"{arguments.name}: {path if path else 'needs no download'}")
    return EXIT_DONE


def do_features(arguments: Arguments) -> int:
    """Compute the reference's features and losses, or check them."""
    user_folder_on_path()
    from gstds.train.cli.reference_features import prepare_features

    config = config_from(given(arguments, RunConfig))
    with Console(quiet=arguments.quiet) as console:
        lines = prepare_features(
            config,
            verify=arguments.verify,
            rebuild=arguments.rebuild,
            ray=arguments.ray,
            progress=console,
        )
    for line in lines:
        out(line)
    return EXIT_DONE


def do_doctor(arguments: Arguments) -> int:
    """Say what is installed, and what can be had."""
    from gstds.train.terminal.doctor import diagnose

    checks = diagnose()
    width = max(len(check.name) for check in checks)
    for check in checks:
        mend = f"  → {check.mend}" if check.mend else ""
        out(f"{check.status:<4}  {check.name:<{width}}  {check.detail}{mend}")
    return EXIT_BAD_INPUT if any(c.status == "fail" for c in checks) else EXIT_DONE
