"""A run's log, the record of what it did: lines of JSON in its folder, only ever appended.

Tables, reports and MLflow read it; the run itself knows nothing of them. Rules: `RunLog.log` and
`RunLog.log_file` never raise and never wait for anybody. A bad metric name is left out with one
warning. NaN is ``null``; infinity is logged as NaN, because MLflow would show it as 1.8e308. A
metric has one line for a step: a resumed run, which repeats its steps to the bit, writes none that
are there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from gstds.common.checksummed_json import check_seal, sealed
from gstds.common.files import write_bytes
from gstds.train.tracking.store import mask_secrets, warner

_log = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"
# How a run ends, and what MLflow calls that.
STATUSES = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}
STATUSES |= {"interrupted": "KILLED"}
_FIELDS = {
    "run": ("run_id", "name", "params", "tags", "description", "data"),
    "metrics": ("step", "values"),
    "file": ("file", "folder"),
    "view": ("name", "rows", "zoom", "runs"),
    "end": ("status",),
}
_DECISIVE = ("identity", "device")
_MOST_IN_MEMORY = 100_000  # lines, while the disk takes none
_LONGEST_END = 300  # bytes of a line that ends a run
_ENDS = (b'{"kind": "end"', b'{"kind": "model"')
_PART = r"(?!\.{1,2}(?:/|$))[\w.\- ]+"
_NAME = re.compile(f"{_PART}(/{_PART})*")


def read_log(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each whole line from an offset, with the offset behind it.

    Args:
        path: A folder's log.
        start: Where a line begins.

    Raises:
        ValueError: If a line is not what was written.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as handle:
        handle.seek(start)
        for line in handle:
            if not line.endswith(b"\n"):  # cut off by a crash, or just being written
                return
            try:
                content = check_seal(json.loads(line), "a line")
                _check_fields(content)
                yield content, handle.tell()
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path} is damaged behind byte {handle.tell() - len(line)}: {error}; "
                    "remove that line"
                ) from error


def has_ended(path: Path) -> bool:
    """Return whether a log's last line is the end of its run, or what is asked behind that."""
    with contextlib.suppress(OSError), path.open("rb") as handle:
        handle.seek(-min(path.stat().st_size, _LONGEST_END), os.SEEK_END)
        lines = handle.read().splitlines(keepends=True)
        return bool(lines) and lines[-1].startswith(_ENDS) and lines[-1][-1:] == b"\n"
    return False


def ask_for_model(path: Path) -> bool:
    """Ask, behind the end of a log, that the network be delivered too, if the run has finished.

    Returns:
        Whether that is new.

    Raises:
        ValueError: If the log is damaged, or empty.
        OSError: If it cannot be read or written.
    """
    *_, (last, end) = read_log(path)
    if finished := last.get("status") == "finished":
        write_bytes(path, path.read_bytes()[:end] + _encoded({"kind": "model"}))
    return finished


def _check_fields(line: dict[str, Any]) -> None:
    kind = line.get("kind")
    if not isinstance(kind, str):
        raise ValueError("it has no kind")
    missing = [name for name in (*_FIELDS.get(kind, ()), "time") if name not in line]
    if missing or not isinstance(line.get("values", {}), dict):
        raise ValueError(f"a line of kind {kind!r} lacks its {', '.join(missing) or 'values'}")


class RunLog:
    """Writes a run's log.

    Args:
        folder: The run's folder; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.path = None if folder is None else Path(folder).absolute() / LOG_NAME
        self.run_id: str | None = None
        self.seconds = 0.0
        self._descriptor: int | None = None
        self._size = 0
        self._waiting: list[bytes] = []
        self._last: dict[str, int] = {}
        self._warn_once = warner(_log)

    def begin(
        self,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        description: str = "",
        data: Mapping[str, Any] | None = None,
        steps: int = 0,
        resume: bool = False,
        step: int = 0,
    ) -> str | None:
        """Begin a log, or go on with the one that is there.

        With other sources or on another device (the tags ``identity`` and ``device``) the steps
        behind the checkpoint are not those that were logged: that is a new attempt, with an id of
        its own and the lines up to ``step``.

        Args:
            name: What the run is called.
            params: Its configuration.
            tags: What it is found by.
            description: Markdown.
            data: The training data as MLflow shows them beside the run: ``name``, ``digest``,
                ``rows``, ``classes``, ``shape`` of one image, ``source``.
            steps: How many there will be, for whoever shows progress.
            resume: Go on, if there is something to go on with.
            step: The step of the checkpoint with which it goes on.

        Returns:
            The run's id; None if nothing is kept.

        Raises:
            ValueError: If the log that is there is damaged.
            OSError: If it cannot be written.
        """
        if self.path is None:
            return None
        there = self._read(self.path) if resume else []
        same = there and all(there[0]["tags"].get(key) == tags.get(key) for key in _DECISIVE)
        self.run_id = str(there[0]["run_id"]) if same else uuid4().hex
        if not same:
            head = {
                "kind": "run",
                "run_id": self.run_id,
                "name": name,
                "params": {k: _as_text(v) for k, v in params.items()},
                "tags": {k: _as_text(v) for k, v in tags.items()},
                "description": mask_secrets(description),
                "data": dict(data) if data else None,
                "steps": steps,
            }
            there = [line for line in there if line.get("step", step + 1) <= step]
            write_bytes(self.path, b"".join(map(_encoded, (head, *there))))
            self._size = self.path.stat().st_size
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        os.ftruncate(self._descriptor, self._size)
        if same:
            self._write({"kind": "resumed"})
        for line in there:
            self._last |= dict.fromkeys(line.get("values", ()), line.get("step", 0))
        return self.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log values of metrics named ``section/name`` at a step."""
        with self._guarded("log"):
            step = int(step)
            values = {
                key: self._finite_or_none(key, value)
                for key, value in metrics.items()
                if self._is_good(key) and step > self._last.get(key, step - 1)
            }
            if values:
                self._last |= dict.fromkeys(values, step)
                self._write({"kind": "metrics", "step": step, "values": values})

    def log_file(self, path: str | Path, folder: str = "") -> None:
        """Log a file of the run's folder as an artifact in ``folder``."""
        with self._guarded("log_file"):
            if self.path is not None:
                own = Path(path).absolute().relative_to(self.path.parent).as_posix()
                self._write({"kind": "file", "file": own, "folder": folder})

    def log_view(self, runs: list[str], **view: Any) -> None:
        """Log that these runs are looked at together, and how, as `place_view` takes it."""
        with self._guarded("log_view"):
            self._write({"kind": "view", "runs": runs, **view})

    def finish(self, status: str) -> None:
        """End the log; it is on the disk afterwards.

        Raises:
            ValueError: If ``status`` is none of `STATUSES`.
        """
        if status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {status!r}")
        with self._guarded("finish"):
            self._write({"kind": "end", "status": status})
        self.sync()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def sync(self) -> None:
        """Bring all that was logged to the disk."""
        with self._guarded("sync"):
            self._write()
            if self._descriptor is not None:
                os.fsync(self._descriptor)

    def _read(self, path: Path) -> list[dict[str, Any]]:
        """Return what is there, without the half line of a crash; nothing if no run begins it."""
        lines = list(read_log(path)) if path.exists() else []
        self._size = lines[-1][1] if lines else 0
        return [line for line, _ in lines if lines[0][0]["kind"] == "run"]

    def _write(self, *lines: dict[str, Any]) -> None:
        """Write lines behind those that wait for room on the disk: all of it, or nothing."""
        if self._descriptor is None:
            return
        self._waiting += map(_encoded, lines)
        content, done = memoryview(b"".join(self._waiting)), 0
        try:
            while done < len(content):
                done += os.write(self._descriptor, content[done:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            self._warn_once(f"{self.path} cannot be written ({error.strerror}); the run goes on")
            del self._waiting[:-_MOST_IN_MEMORY]
        else:
            self._size += done
            self._waiting = []

    def _is_good(self, key: str) -> bool:
        good = isinstance(key, str) and len(key) <= 250 and _NAME.fullmatch(key) is not None
        if not good:
            self._warn_once(
                f"metric {key!r} is left out: names are section/name of letters, digits, "
                "'_', '-', '.' and spaces, at most 250 characters"
            )
        return good

    def _finite_or_none(self, key: str, value: float) -> float | None:
        number = float(value)
        if math.isinf(number):
            self._warn_once(f"metric {key!r} became infinite; it is logged as NaN")
        return number if math.isfinite(number) else None

    @contextlib.contextmanager
    def _guarded(self, action: str) -> Iterator[None]:
        """Count the seconds, and warn of an error: a run must not die of its record."""
        begin = time.perf_counter()
        try:
            yield
        except Exception as error:
            self._warn_once(f"{action}: {type(error).__name__}: {error}")
        finally:
            self.seconds += time.perf_counter() - begin


def _encoded(line: Mapping[str, Any]) -> bytes:
    """Return a line of the log, with the time of now unless it has one."""
    timed = {"kind": line["kind"], "time": time.time_ns() // 1_000_000, **line}
    return (json.dumps(sealed(timed), allow_nan=False) + "\n").encode()


def _as_text(value: Any) -> str:
    """Return a parameter's value as it is shown, without secrets."""
    nested = isinstance(value, dict | list | tuple)
    return mask_secrets(json.dumps(value, default=str) if nested else str(value))


def git_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Return the commit of the sources, with ``-dirty`` behind it if they were changed.

    Args:
        folder: A folder of sources; default that of this package.

    Returns:
        40 hexadecimal digits, or None if the sources are not under git's control.
    """
    answer = None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    for words in (["ls-files", "--", "."], describe):  # the first is silent on what git ignores
        command = ["git", "-C", str(folder), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        answer = done.stdout.strip() or None
        if answer is None:
            break
    return answer


own_commit = cache(git_commit)  # the commit as it was when first asked, as the code is
