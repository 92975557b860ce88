"""A run's folder: its configuration comes first, its result last; and room for what it writes."""

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

_log = logging.getLogger(__name__)
RUN_LOCK = "run.lock"
_RESULTS = 500_000


def open_folder(
    folder: Path, config: RunConfig, *, command: str = "", tracking: dict[str, Any] | None = None
) -> None:
    """Write the whole configuration into a run's folder, before anything else.

    With ``command`` and ``tracking``, where the record is kept, a resume needs no other option.
    What another run has left there is removed.

    Raises:
        OSError: If the folder cannot be written.
    """
    for stale in ("result.json", "history.json", "traceback.txt"):
        (folder / stale).unlink(missing_ok=True)
    for stale in ("checkpoints", "model"):
        shutil.rmtree(folder / stale, ignore_errors=True)
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
        The folders that had to be made for it, the innermost first. An error removes those that
        are still listed.

    Raises:
        FolderInUseError: If another process holds it.
    """
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(locked(folder / RUN_LOCK, wait=0, keep=False))
        except BlockingIOError:
            raise FolderInUseError(
                f"{folder} is in use: another process runs there; wait for its end, or choose "
                "another folder by --out"
            ) from None
        try:
            yield made
        except (Exception, SystemExit):
            if made:
                shutil.rmtree(made[-1], ignore_errors=True)
            raise


def space_needed(env: Any, *, checkpoints: bool) -> int:
    """Return about how many bytes a run writes at most: checkpoints, network, result, pictures.

    Args:
        env: The run's environment.
        checkpoints: Whether the run writes any.
    """
    weights = sum(tensor.nbytes for tensor in env.learner.model.state_dict().values())
    bits = min(env.total_steps, env.max_draws) * (env.options.batch_size // 8 + 1)
    one = 3 * weights + 32 * len(env.data.train) + bits
    # Two checkpoints are kept, and a third is there while it is written.
    return int(3 * one * checkpoints + weights + bits + _RESULTS)


def check_space(folder: Path, needed: int) -> None:
    """Refuse a folder whose disk has less room than a run needs.

    Args:
        folder: Where the run writes.
        needed: Bytes.

    Raises:
        OSError: If there is less; the message names both figures.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"--out {str(folder)!r}: no space on the disk, {free / 1e6:.1f} MB free and up to "
            f"{needed / 1e6:.1f} MB needed; free some, name another folder, or do without "
            "checkpoints: --checkpoint-every 0"
        )
