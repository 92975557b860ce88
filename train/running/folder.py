"""A run's folder: its configuration comes first, its result last."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_sealed, write_sealed
from gstds.common.files import locked
from gstds.train.running.options import RunConfig, identity

__all__ = ["FolderInUseError", "configured", "finished_result", "held", "open_folder"]

_log = logging.getLogger(__name__)


def open_folder(
    folder: Path, config: RunConfig, *, command: str = "", tracking: dict[str, Any] | None = None
) -> None:
    """Write the whole configuration into a run's folder, before anything else.

    With ``command`` and ``tracking``, where the record is kept, a resume needs no other option.

    Raises:
        OSError: If the folder cannot be written.
    """
    note = {"version": 1, "config": config.as_dict(), "identity": identity(config)}
    write_sealed(folder / "config.json", note | {"command": command, "tracking": tracking})


def finished_result(folder: Path) -> dict[str, Any] | None:
    """Return the result of a run that has ended well or diverged, None if there is none.

    A damaged one is none: its run goes on from its last checkpoint and writes it anew.
    """
    try:
        result = read_sealed(folder / "result.json")
    except OSError:
        return None
    except ValueError as error:
        _log.warning("%s; the run is resumed", error)
        return None
    return result if result.get("status") in ("finished", "diverged") else None


class FolderInUseError(OSError):
    """Another process runs in the folder."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[list[Path]]:
    """Hold a run's folder for this process, which may have died without cleaning up.

    Yields:
        The folders that had to be made for it, the innermost first.

    Raises:
        FolderInUseError: If another process holds it.
    """
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(locked(folder / "run.lock", wait=0, keep=False))
        except BlockingIOError:
            raise FolderInUseError(
                f"{folder} is in use: another process runs there; wait for its end, or choose "
                "another folder by --out"
            ) from None
        yield made


@contextlib.contextmanager
def configured(
    folder: Path,
    config: RunConfig,
    command: str,
    tracking: dict[str, Any] | None,
    resume: bool,
    made: list[Path],
) -> Iterator[None]:
    """Write the configuration first, so that a killed run can be resumed.

    On error the folders that were ``made`` for the run are taken back.
    """
    if not resume:
        for stale in ("result.json", "history.json", "traceback.txt"):
            (folder / stale).unlink(missing_ok=True)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        open_folder(folder, config, command=command, tracking=tracking)
    try:
        yield
    except (Exception, SystemExit):
        if made:
            shutil.rmtree(made[-1], ignore_errors=True)
        raise
