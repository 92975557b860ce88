"""`gstds clean`: what takes room and is needed no more; shown first, deleted when told."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from gstds.common.checksummed_json import read_sealed
from gstds.common.files import cache_root, is_locked
from gstds.store.format import LOCK_NAME
from gstds.train.figures.tables import lay_out
from gstds.train.running.folder import RUN_LOCK, finished_result
from gstds.train.terminal import options as words
from gstds.train.terminal.console import out, print_table

_DAY = 86_400.0
_COLUMNS = [("what", "what", "text"), ("path", "path", "text"), ("mb", "MB", "{:,.1f}")]


def do_clean(arguments: argparse.Namespace) -> int:
    """Show what is needed no more, and delete it if that was said."""
    root = Path(arguments.folder)
    if not root.is_dir():
        raise ValueError(f"folder {arguments.folder!r} is not there")
    if arguments.days < 0:
        raise ValueError(f"days must be at least 0, got {arguments.days}")
    replaced = list(_superseded(root))
    gone = {path for _, path in replaced}
    left = [(what, path) for what, path in _checkpoints(root) if path.parent not in gone]
    found = [*replaced, *left, *_caches(arguments.days)]
    sizes = [_size(path) / 1e6 for _, path in found]
    rows = [{"what": w, "path": str(p), "mb": mb} for (w, p), mb in zip(found, sizes, strict=True)]
    if rows:
        print_table(lay_out(rows, _COLUMNS))
    out(f"\n{len(rows)} folders, {sum(sizes):,.1f} MB")
    if rows and not arguments.yes:
        out("nothing was deleted; to delete it: the same command with --yes")
    for _, path in found if arguments.yes else ():
        shutil.rmtree(path, ignore_errors=True)
    return words.Exit.DONE


def _superseded(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the folders of runs that their comparison holds no more, such as after an edit."""
    for file in sorted(root.rglob("comparison.json")):
        with contextlib.suppress(OSError, ValueError):
            content = read_sealed(file)
            complete = len(content["runs"]) >= content["planned"]
            trials = content.get("tuning", {}).get("trials", ())
            runs = [*content["runs"], *content["controls"], *trials]
            held = {str(run["run_id"]) for run in runs}
            for folder in sorted((file.parent / "runs").glob("*/")):
                result = finished_result(folder)
                if (
                    complete
                    and result
                    and result["run_id"] not in held
                    and not is_locked(folder / RUN_LOCK)
                ):
                    yield "run that its comparison holds no more", folder


def _checkpoints(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in sorted(root.rglob("checkpoints")):
        if (
            folder.is_dir()
            and finished_result(folder.parent)
            and not is_locked(folder.parent / RUN_LOCK)
        ):
            yield "checkpoints of a run that has ended", folder


def _caches(days: float) -> Iterator[tuple[str, Path]]:
    """Yield the stores of features that nobody has opened for so many days."""
    for folder in sorted((cache_root() / "features").glob("*/")):
        used = max((f.stat().st_atime for f in folder.iterdir()), default=0.0)
        if time.time() - used > days * _DAY and not is_locked(folder / LOCK_NAME):
            yield f"features that were not used for {days:g} days", folder


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
