"""What `gstds list` says: names and a line about each, from the tables of the whole package.

Importing those takes seconds, most of them torch's, so ``names.json`` holds what they say. It is
written, and compared with them, by ``tests/train/cli/test_listed.py``.
"""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

from gstds.common.checks import check_choice

NAMES: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("names.json").read_text())
"""By kind: each name that comes with the project, and a line about it."""


def listed(kind: str) -> dict[str, str]:
    """Return the names of a kind, each with a line about it; plug-ins by where they come from.

    Raises:
        ValueError: If the kind is unknown.
    """
    names = NAMES[check_choice("KIND", kind, NAMES)]
    plugins = entry_points(group="gstds.policies") if kind == "policies" else ()
    return {point.name: f"plug-in {point.value}" for point in plugins} | names
