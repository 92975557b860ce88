"""From the words of a command line to options, folders and the tracking store, all checked."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import tempfile
import time
import uuid
from pathlib import Path

from gstds.train.running.options import RecordOptions
from gstds.train.terminal.options import given

__all__ = [
    "check_places",
    "command_line",
    "new_folder",
    "open_tracking",
    "touch_folder",
    "user_folder_on_path",
]

Arguments = argparse.Namespace


def command_line() -> str:
    """Return the command that runs, without its secrets."""
    from gstds.train.tracking.store import mask_secrets

    return shlex.join(["gstds", *(mask_secrets(word) for word in sys.argv[1:])])


def user_folder_on_path() -> None:
    """Let ``module:Class`` name files of the working folder, without shadowing the packages."""
    from gstds.train.terminal.imported_packages import check_mlflow

    for problem in check_mlflow():
        raise ValueError(problem)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def new_folder(kind: str) -> Path:
    """Return the name of a folder that is not there yet, in ``runs``."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{kind}-{stamp}-{uuid.uuid4().hex[:6]}"


def check_places(arguments: Arguments) -> None:
    """Refuse folders and files that cannot be written, before any work.

    Raises:
        OSError: If one cannot be written; the message names it.
    """
    RecordOptions(**given(arguments, RecordOptions))
    if arguments.json:
        parent = Path(arguments.json).absolute().parent
        if not parent.is_dir() or Path(arguments.json).is_dir():
            raise OSError(f"--json {arguments.json!r}: no file can be written there")


def touch_folder(folder: Path) -> None:
    """Try whether a folder can be made and written; leave nothing behind.

    Raises:
        OSError: If it cannot; the message names it.
    """
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x" * 4096)
            probe.flush()
    except OSError as error:
        raise OSError(
            f"--out {str(folder)!r} cannot be written ({error.strerror}); name another folder"
        ) from error
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


def open_tracking(arguments: Arguments) -> str | None:
    """Return the tracking store's URI; None without tracking.

    A server is asked whether it is there. Nothing is made yet: the data may prove unusable.

    Raises:
        ConnectionError: If the server does not answer, unless the command line says --offline.
    """
    if arguments.no_tracking:
        return None
    from gstds.train.tracking.store import check_store, tracking_uri

    uri = tracking_uri(arguments.tracking_uri)
    try:
        check_store(uri, arguments.experiment)
    except ConnectionError:
        if not getattr(arguments, "offline", False):
            raise
    return uri
