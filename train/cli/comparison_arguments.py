"""From the words of ``compare`` and its like to a comparison."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gstds.train.comparing.comparison import Comparison
from gstds.train.running.options import RunConfig, config_from
from gstds.train.terminal.arguments import command_line, new_folder, open_tracking, touch_folder
from gstds.train.terminal.console import out
from gstds.train.terminal.exit_codes import EXIT_INTERRUPTED, code_of
from gstds.train.terminal.options import given
from gstds.train.tracking.store import mask_secrets

__all__ = ["comparison_from", "exit_code", "ui_line", "with_tracking"]

Arguments = argparse.Namespace


def comparison_from(
    arguments: Arguments, kind: str, defaults: Mapping[str, Any] | None = None, **rows: Any
) -> Comparison:
    """Return the comparison that a command line asks for, not tracked yet.

    Args:
        arguments: The command line.
        kind: What a new folder is called.
        defaults: Options of the runs where the command line has none.
        **rows: Options of the comparison where the command line has none.

    Raises:
        ValueError: If an option is unknown or out of range.
        OSError: If the folder cannot be written.
    """
    folder = Path(arguments.out) if arguments.out else new_folder(kind)
    touch_folder(folder)
    return Comparison(
        base=config_from({**(defaults or {}), **given(arguments, RunConfig)}),
        name=folder.name,
        folder=folder,
        command=command_line(),
        **{**rows, **given(arguments, Comparison)},
    )


def with_tracking(arguments: Arguments, comparison: Comparison) -> Comparison:
    """Return the comparison with its tracking store, which answers; unless none is wanted.

    Raises:
        ConnectionError: If the store does not answer.
    """
    return replace(comparison, tracking=open_tracking(arguments))


def exit_code(statuses: list[str], *, whole: bool, done: tuple[str, ...] = ()) -> int:
    """Return the exit code of many runs, and say how to go on where some are missing."""
    code = code_of(statuses, whole=whole, done=done)
    if code == EXIT_INTERRUPTED:
        out("stopped early; the same command with the same --out goes on")
    return code


def ui_line(arguments: Arguments) -> str:
    """Say how to open the runs."""
    extra = f" --experiment {arguments.experiment}" if arguments.experiment != "gstds" else ""
    extra += (
        f" --tracking-uri {mask_secrets(arguments.tracking_uri)}" if arguments.tracking_uri else ""
    )
    return f"open the runs: gstds ui{extra}"
