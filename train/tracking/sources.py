"""The commit of the sources that a run is made with."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

__all__ = ["git_commit"]


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit of the sources, with ``-dirty`` behind it if they were changed.

    Args:
        folder: A folder of sources; default that of this package.

    Returns:
        40 hexadecimal digits, or None if the sources are not under git's control.
    """
    return _commit_of(folder) if folder else _own_commit()


@cache
def _own_commit() -> str | None:
    """Return this package's commit as it was when first asked: three processes, once."""
    return _commit_of(Path(__file__).parent)


def _commit_of(place: Path) -> str | None:
    if not _git(place, "ls-files", "--", "."):
        return None
    commit = _git(place, "rev-parse", "HEAD")
    dirty = _git(place, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and dirty else commit or None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
