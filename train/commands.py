"""What each command of the command line does."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
import time
import uuid
from dataclasses import fields
from pathlib import Path
from typing import Any

from gstds.files import write_json
from gstds.validation import check_choice, check_integer
from train.agents_command import do_learn
from train.cli import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    LIST_KINDS,
)
from train.config import RunConfig, config_from
from train.console import Console, say
from train.mlflow_store import mask_secrets
from train.report_command import do_report, print_tables

__all__ = [
    "do_compare",
    "do_data",
    "do_doctor",
    "do_features",
    "do_learn",
    "do_list",
    "do_report",
    "do_run",
    "do_sync",
    "do_ui",
]

Arguments = argparse.Namespace


def _out(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def _out_now(text: str) -> None:
    _out(text)
    sys.stdout.flush()


def _command_line() -> str:
    return shlex.join(["gstds", *(mask_secrets(word) for word in sys.argv[1:])])


def _user_folder_on_path() -> None:
    """Let ``module:Class`` name files of the working folder, without shadowing the packages."""
    from train.shadowing import check_shadowing

    for problem in check_shadowing():
        raise ValueError(problem)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _given_options(arguments: Arguments) -> dict[str, Any]:
    known = [f.name for f in fields(RunConfig)]
    given = {k: v for k, v in vars(arguments).items() if k in known}
    for name in ("policy_params", "schedule_params"):
        if name in given:
            given[name] = dict(given[name])
    return given


def _new_folder(kind: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{kind}-{stamp}-{uuid.uuid4().hex[:6]}"


def _check_places(arguments: Arguments) -> None:
    """Refuse folders and files that cannot be written, before any work.

    Raises:
        OSError: If one cannot be written; the message names it.
    """
    check_integer("checkpoint_every", arguments.checkpoint_every)
    if arguments.json:
        parent = Path(arguments.json).absolute().parent
        if not parent.is_dir() or Path(arguments.json).is_dir():
            raise OSError(f"--json {arguments.json!r}: no file can be written there")


def _touch_folder(folder: Path) -> None:
    """Try whether a folder can be made and written; leave nothing behind.

    Raises:
        OSError: If it cannot; the message names it.
    """
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x" * 4096)
            probe.flush()
    except OSError as error:
        raise OSError(
            f"--out {str(folder)!r} cannot be written ({error.strerror}); name another folder"
        ) from error
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


def _tracking(arguments: Arguments) -> str | None:
    """Return the tracking store's URI; None without tracking.

    A server is asked whether it is there. Nothing is made yet: the data may prove unusable.
    """
    if arguments.no_tracking:
        return None
    from train.mlflow_store import probe_store, tracking_uri

    uri = tracking_uri(arguments.tracking_uri)
    probe_store(uri)
    return uri


# ---------------------------------------------------------------------------------- run


def do_run(arguments: Arguments) -> int:
    """Train once under one policy."""
    _user_folder_on_path()
    _check_places(arguments)
    if arguments.resume:
        return _resume(arguments)
    config = config_from(_given_options(arguments))
    folder = Path(arguments.out) if arguments.out else _new_folder("run")
    _touch_folder(folder)
    return _run(arguments, config, folder, resume=False)


def _resume(arguments: Arguments) -> int:
    folder = _find_run(arguments.resume, arguments)
    try:
        note = json.loads((folder / "config.json").read_text())
        config = config_from(note["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--resume {arguments.resume!r}: no readable config.json there") from error
    _refuse_changes(arguments, config)
    _same_record(arguments, note)
    return _run(arguments, config, folder, resume=True)


def _refuse_changes(arguments: Arguments, config: RunConfig) -> None:
    """Refuse options that differ from those that the run was started with."""
    given = _given_options(arguments)
    changed = [name for name, value in given.items() if getattr(config, name) != value]
    if changed:
        name = changed[0]
        raise ValueError(
            f"--resume goes on with {name} = {getattr(config, name)!r}, which the run was started "
            f"with, got {given[name]!r}; leave the option out, or start a new run"
        )


def _same_record(arguments: Arguments, note: dict[str, Any]) -> None:
    """Let a resumed run go on with the record that it began; ``--tracking-uri`` still wins."""
    if "tracking" not in note or arguments.tracking_uri:
        return
    tracking = note["tracking"]
    if tracking is None:
        arguments.no_tracking = True
        return
    arguments.tracking_uri = tracking["uri"]
    arguments.experiment = tracking["experiment"]


def _find_run(name: str, arguments: Arguments) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from train.mlflow_store import client, store_exists, tracking_uri

    uri = tracking_uri(arguments.tracking_uri)
    try:
        if not store_exists(uri):
            raise ValueError(f"there is no {uri}")
        return Path(client(uri).get_run(name).data.tags["folder"])
    except Exception as error:
        raise ValueError(
            f"--resume {name!r} is neither a folder nor the id of a run in the tracking store"
        ) from error


def _run(arguments: Arguments, config: RunConfig, folder: Path, *, resume: bool) -> int:
    from train.run import StopFlag, execute, finished_result
    from train.setup import make_run_policy

    make_run_policy(config)
    tracker = None
    if not (resume and finished_result(folder)):
        uri = _tracking(arguments)
        if uri:
            from train.tracking import MlflowTracker

            tracker = MlflowTracker(uri, arguments.experiment, spool=folder / "spool")
    with Console(quiet=arguments.quiet) as console:
        result = execute(
            config,
            folder,
            tracker=tracker,
            stop=StopFlag(),
            resume=resume,
            checkpoint_every=arguments.checkpoint_every,
            progress=console,
            command=_command_line(),
        )
    return _show_run(arguments, result, folder)


def _show_run(arguments: Arguments, result: dict[str, Any], folder: Path) -> int:
    from train.report import runs_table

    if arguments.json:
        write_json(arguments.json, _run_json(result))
    _out(runs_table([result]).text())
    _out(f"\nresult: {folder / 'result.json'}")
    if result["status"] == "interrupted":
        _out(f"go on with: gstds run --resume {folder}")
        return EXIT_INTERRUPTED
    if any((folder / "spool").glob("*.jsonl")):
        _out(f"not all of its record is in MLflow yet; deliver it by: gstds sync {folder}")
    elif result.get("run_id"):
        _out("open the UI: gstds ui")
    return EXIT_DONE if result["status"] == "finished" else EXIT_FAILED


def _run_json(result: dict[str, Any]) -> dict[str, Any]:
    from train.statistics import summarize

    name = result["policy"]
    return {
        "version": 1,
        "baseline": name,
        "runs": [result],
        "summary": summarize([result], name),
        "controls": [],
        "controls_summary": [],
    }


# ---------------------------------------------------------------------------------- compare


def do_compare(arguments: Arguments) -> int:
    """Train under several policies and seeds, and compare."""
    _user_folder_on_path()
    _check_places(arguments)
    from train.compare import Comparison, compare, plan
    from train.run import StopFlag, interruptible

    base = config_from(_given_options(arguments))
    policies = tuple(arguments.policies)
    folder = Path(arguments.out) if arguments.out else _new_folder("compare")
    _touch_folder(folder)
    comparison = Comparison(
        base=base,
        policies=policies,
        seeds=arguments.seeds,
        baseline=arguments.baseline or ("random" if "random" in policies else policies[0]),
        name=folder.name,
        folder=folder,
        tracking=None,
        experiment=arguments.experiment,
        workers=arguments.workers,
        checkpoint_every=arguments.checkpoint_every,
        command=_command_line(),
        paper_defaults=arguments.paper_defaults,
        controls=arguments.controls,
    )
    plan(comparison)
    uri = _tracking(arguments)
    comparison = Comparison(**{**vars(comparison), "tracking": uri})
    stop = StopFlag()
    with Console(quiet=arguments.quiet) as console, interruptible(stop):
        content = compare(comparison, progress=console, report=_tell(arguments), stop=stop)
    return _show_comparison(arguments, content, folder, uri)


def _tell(arguments: Arguments) -> Any:
    def report(result: dict[str, Any], old: bool) -> None:
        accuracy = result.get("test_accuracy")
        score = f" test accuracy {100 * accuracy:.2f}%" if accuracy is not None else ""
        note = " (from before)" if old else ""
        error = f": {result['error']}" if result.get("error") else ""
        if not arguments.quiet:
            head = f"{result['policy']} seed {result['seed']}: {result['status']}{note}"
            say(f"{head}{score}{error}")

    return report


def _show_comparison(
    arguments: Arguments, content: dict[str, Any], folder: Path, uri: str | None
) -> int:
    from train.report import write_report

    if arguments.json:
        write_json(arguments.json, content)
    paths = write_report(folder, content)
    print_tables(content)
    _out(f"\nreport: {paths['html']}")
    for name, path in paths.items():
        if name == "accuracy":
            _out(f"plot ({name}): {path}")
    if uri:
        from train.publish import publish

        publish(uri, arguments.experiment, content, paths)
        _out(_ui_line(arguments))
    statuses = [run["status"] for run in (*content["runs"], *content["controls"])]
    if "interrupted" in statuses or not _all_there(content):
        _out("stopped early; the same command with the same --out goes on")
        return EXIT_INTERRUPTED
    return EXIT_DONE if all(s == "finished" for s in statuses) else EXIT_FAILED


def _all_there(content: dict[str, Any]) -> bool:
    planned = content["controls_planned"]
    whole = len(content["runs"]) == content["planned"]
    return whole and planned is not None and len(content["controls"]) == planned


def _ui_line(arguments: Arguments) -> str:
    """Say how to open the runs."""
    extra = f" --experiment {arguments.experiment}" if arguments.experiment != "gstds" else ""
    extra += (
        f" --tracking-uri {mask_secrets(arguments.tracking_uri)}" if arguments.tracking_uri else ""
    )
    return f"open the runs: gstds ui{extra}"


# ---------------------------------------------------------------------------------- the others


def do_ui(arguments: Arguments) -> int:
    """Serve the MLflow UI on the tracking store."""
    from train.mlflow_store import mask_secrets, store_exists, tracking_uri
    from train.ui import open_ui

    uri = tracking_uri(arguments.tracking_uri)
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
        echo=_out_now,
    )


def do_sync(arguments: Arguments) -> int:
    """Deliver spooled records."""
    from train.tracking import sync_spool

    counts = sync_spool(arguments.folder, arguments.tracking_uri)
    _out(f"{sum(counts.values())} records of {len(counts)} runs delivered")
    return EXIT_DONE


def do_list(arguments: Arguments) -> int:
    """List names with descriptions."""
    kinds: tuple[str, ...] = LIST_KINDS
    if arguments.kind is not None:
        kinds = (check_choice("KIND", arguments.kind, LIST_KINDS),)
    for kind in kinds:
        names = _names(kind)
        if arguments.kind is None:
            _out(f"{kind}:")
        width = max((len(name) for name in names), default=0)
        for name, text in names.items():
            plain = arguments.kind is not None and not sys.stdout.isatty()
            _out(f"{name}\t{text}" if plain else f"  {name:<{width}}  {text}")
    return EXIT_DONE


def _names(kind: str) -> dict[str, str]:
    if kind == "policies":
        from policies import policy_names

        return policy_names()
    if kind == "schedules":
        from gstds.schedules import SCHEDULES

        return {n: (c.__doc__ or "").strip().split("\n")[0] for n, c in SCHEDULES.items()}
    if kind == "scores":
        from policies.scores import score_names

        return score_names()
    if kind == "pickers":
        from policies.pickers import picker_names

        return picker_names()
    if kind == "datasets":
        from envs.datasets import dataset_names

        return dataset_names()
    if kind == "learners":
        from envs.models import LEARNERS

        return {name: text for name, (_, text) in LEARNERS.items()}
    if kind == "references":
        from gstds.reference import reference_names

        return reference_names()
    if kind == "agents":
        from train.agents import agent_names

        return agent_names()
    return {}


def do_data(arguments: Arguments) -> int:
    """Bring a data set here."""
    from envs.datasets import fetch_data

    path = fetch_data(arguments.name)
    _out(f"{arguments.name}: {path if path else 'needs no download'}")
    return EXIT_DONE


def do_features(arguments: Arguments) -> int:
    """Compute the reference's features and losses, or check them."""
    _user_folder_on_path()
    from train.features import prepare_features

    config = config_from(_given_options(arguments))
    with Console(quiet=arguments.quiet) as console:
        lines = prepare_features(
            config, verify=arguments.verify, rebuild=arguments.rebuild, progress=console
        )
    for line in lines:
        _out(line)
    return EXIT_DONE


def do_doctor(arguments: Arguments) -> int:
    """Say what is installed, and what can be had."""
    from train.doctor import diagnose

    checks = diagnose()
    width = max(len(check.name) for check in checks)
    for check in checks:
        mend = f"  → {check.mend}" if check.mend else ""
        _out(f"{check.status:<4}  {check.name:<{width}}  {check.detail}{mend}")
    return EXIT_BAD_INPUT if any(c.status == "fail" for c in checks) else EXIT_DONE
