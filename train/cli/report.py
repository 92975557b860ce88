"""What ``gstds report`` does, and how a comparison is printed."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_sealed
from gstds.train.terminal.console import out, print_table
from gstds.train.terminal.exit_codes import EXIT_DONE

__all__ = ["do_report", "print_tables"]


def do_report(arguments: argparse.Namespace) -> int:
    """Write the report of a comparison, by its folder or by its name in the tracking store."""
    from gstds.train.reporting.report import write_report

    here = str(Path.cwd())
    if here not in sys.path:  # the data set may be a user's module:function
        sys.path.append(here)
    folder = _find_comparison(arguments)
    try:
        content = read_sealed(folder / "comparison.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(folder)!r} holds no readable comparison.json: {error}") from error
    try:
        # A file is no one's word for running code: only the command line is.
        named = arguments.dataset == content["config"]["dataset"]
        paths = write_report(folder, content, run_code=named)
        print_tables(content)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(folder)!r}: comparison.json is not one that this release reads "
            f"({type(error).__name__}: {error})"
        ) from error
    out(f"\nreport: {paths['html']}")
    return EXIT_DONE


def _find_comparison(arguments: argparse.Namespace) -> Path:
    folder = Path(arguments.comparison)
    if folder.exists():
        return folder
    from gstds.train.reporting.mlflow_summary import fetch_comparison
    from gstds.train.tracking.tracker import tracking_uri

    uri = tracking_uri(arguments.tracking_uri)
    place = Path("runs") / f"report-{folder.name}"
    return fetch_comparison(uri, arguments.experiment, arguments.comparison, place)


def print_tables(content: dict[str, Any]) -> None:
    """Print the comparison, and below it the controls."""
    from gstds.train.figures.tables import comparison_table

    if content["summary"]:
        print_table(comparison_table(content["summary"], setting=content["setting"]))
    if content.get("controls_summary"):
        out("\ncontrols, beside the same baseline:\n")
        print_table(replace(comparison_table(content["controls_summary"]), caption=""))
