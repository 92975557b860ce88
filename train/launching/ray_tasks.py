"""What runs on the nodes of a Ray cluster.

Nothing heavy is imported before the environment is set: libraries read it when they are loaded.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["run_task", "see_files"]


def see_files(paths: list[str]) -> list[str]:
    """Return the paths that this node does not see; they are opened, for network file systems."""
    unseen = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except (FileNotFoundError, NotADirectoryError):
            unseen.append(path)
    return unseen


def run_task(environment: Mapping[str, str], here: str, call: bytes, *more: Any) -> Any:
    """Return what a function returns here, where it finds what the process that asks finds.

    Args:
        environment: Variables to set.
        here: The folder to work in.
        call: The function and its first arguments, pickled: reading them imports their modules.
        more: Its other arguments.
    """
    os.environ.update(environment)
    os.chdir(here)
    if here not in sys.path:
        sys.path.append(here)
    function, arguments = pickle.loads(call)  # noqa: S301  (from the process that asks)
    return function(*arguments, *more)
