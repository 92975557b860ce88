"""Whoever runs the suite finds their clone and their home as they were, but for caches of tools.

Hooks of the process that pytest was started in, for quick and slow tests alike: with pytest-xdist
it is the one that distributes. Of the home only what this project and its libraries would write is
looked through, and what is new beside it.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CACHES = (
    *("__pycache__", ".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache"),
    *(".import_linter_cache", "*.egg-info", ".venv", ".git"),
)
OURS = (".cache/gstds", ".cache/matplotlib", ".config/matplotlib", ".mlflow", "mlruns")
BESIDE = ("", ".cache", ".config", ".local/share", ".local/state")

_before = pytest.StashKey[dict[str, object]]()
_left = pytest.StashKey[list[str]]()


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):
        session.config.stash[_before] = _snapshot(session.config.rootpath)


# Last, when all workers are gone.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    before = session.config.stash.get(_before, None)
    if before is None:
        return
    after = _snapshot(session.config.rootpath)
    left = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    session.config.stash[_left] = left
    if left and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if left := config.stash.get(_left, []):
        terminalreporter.section("the clone or the home is not as it was", red=True)
        for path in left:
            terminalreporter.line(path)


def _snapshot(root: Path) -> dict[str, object]:
    home = Path.home()
    trees = [root, *(home / name for name in OURS)]
    seen: dict[str, object] = {path: state for tree in trees for path, state in _files(tree)}
    for folder in (home / name for name in BESIDE):
        if folder.is_dir():
            seen |= dict.fromkeys(map(str, folder.iterdir()), "there") | seen
    return seen


def _files(tree: Path) -> Iterator[tuple[str, object]]:
    """Yield the files of a tree with their size and time, and its folders."""
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if not _is_cache(name)]
        yield folder, "there"
        for name in files:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            yield path, (state.st_size, state.st_mtime_ns)


def _is_cache(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in CACHES)
