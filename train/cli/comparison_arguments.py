"""From the words of ``compare`` and its like to a comparison."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.train.running.options import config_from
from gstds.train.terminal.arguments import (
    command_line,
    given_options,
    new_folder,
    open_tracking,
    touch_folder,
)
from gstds.train.tracking.store import mask_secrets

if TYPE_CHECKING:
    from gstds.train.comparing.comparison import Comparison

__all__ = ["comparison_from", "ui_line", "with_tracking"]

Arguments = argparse.Namespace


def comparison_from(
    arguments: Arguments,
    policies: tuple[str, ...],
    kind: str,
    defaults: Mapping[str, Any] | None = None,
) -> Comparison:
    """Return the comparison that a command line asks for, not tracked yet.

    Args:
        arguments: The command line.
        policies: The rows.
        kind: What a new folder is called.
        defaults: Options where the command line has none.

    Raises:
        ValueError: If an option is unknown or out of range.
        OSError: If the folder cannot be written.
    """
    from gstds.train.comparing.comparison import Comparison

    folder = Path(arguments.out) if arguments.out else new_folder(kind)
    touch_folder(folder)
    baseline = getattr(arguments, "baseline", None)
    return Comparison(
        base=config_from({**(defaults or {}), **given_options(arguments)}),
        policies=policies,
        seeds=3 if arguments.seeds is None else arguments.seeds,
        baseline=baseline or ("random" if "random" in policies else policies[0]),
        name=folder.name,
        folder=folder,
        tracking=None,
        experiment=arguments.experiment,
        workers=arguments.workers,
        threads=arguments.threads,
        checkpoint_every=arguments.checkpoint_every,
        command=command_line(),
        paper_defaults=getattr(arguments, "paper_defaults", False),
        controls=getattr(arguments, "controls", False),
        first_seed=arguments.first_seed,
        ray=arguments.ray,
        offline=arguments.offline,
    )


def with_tracking(arguments: Arguments, comparison: Comparison) -> Comparison:
    """Return the comparison with its tracking store, which answers; unless none is wanted.

    Raises:
        ConnectionError: If the store does not answer.
    """
    return replace(comparison, tracking=open_tracking(arguments))


def ui_line(arguments: Arguments) -> str:
    """Say how to open the runs."""
    extra = f" --experiment {arguments.experiment}" if arguments.experiment != "gstds" else ""
    extra += (
        f" --tracking-uri {mask_secrets(arguments.tracking_uri)}" if arguments.tracking_uri else ""
    )
    return f"open the runs: gstds ui{extra}"
