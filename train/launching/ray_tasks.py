"""What runs on the nodes of a Ray cluster: runs, features, and the mailbox between them and us.

Nothing heavy is imported before the environment is set: libraries read it when they are loaded.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from gstds.train.launching.jobs import Job

__all__ = ["Mailbox", "features_task", "job_from", "plain_job", "run_task", "see_files"]

_SECONDS_BETWEEN_MESSAGES = 1.0


class Mailbox:
    """An actor: collects what the runs tell, and tells them when to stop."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, str, Any]] = []
        self._halted = False

    def tell(self, key: str, messages: list[tuple[str, Any]]) -> bool:
        """Take what a run tells; return whether it shall stop."""
        self._messages += [(key, kind, content) for kind, content in messages]
        return self._halted

    def collect(self) -> list[tuple[str, str, Any]]:
        """Return what was told since the last call: key of the run, kind, content."""
        messages, self._messages = self._messages, []
        return messages

    def halt(self) -> None:
        """Tell every run to save a checkpoint and end."""
        self._halted = True


def plain_job(job: Job) -> dict[str, Any]:
    """Return a run as plain values, which any process reads without importing what we have.

    Its folder becomes absolute: it means the same on every node.
    """
    return {**vars(job), "config": job.config.as_dict(), "folder": str(job.folder.absolute())}


def job_from(plain: Mapping[str, Any]) -> Job:
    """Return the run that `plain_job` took apart."""
    from gstds.train.launching.jobs import Job
    from gstds.train.running.options import config_from

    config = config_from(plain["config"])
    return Job(**{**plain, "config": config, "folder": Path(plain["folder"])})


def see_files(paths: list[str]) -> list[str]:
    """Return the paths that this node does not see."""
    return [path for path in paths if not Path(path).exists()]


def run_task(
    plain: Mapping[str, Any], environment: Mapping[str, str], here: str, mailbox: Any
) -> dict[str, Any] | None:
    """Do one run, or go on with it; return None if it shall not begin any more."""
    import ray

    if ray.get(mailbox.tell.remote(plain["folder"], [])):
        return None
    _settle(environment, here)
    from gstds.train.launching.jobs import run_job
    from gstds.train.running.ending import StopFlag

    stop = StopFlag()
    with _Reporter(mailbox, plain["folder"], stop) as reporter:
        return run_job(job_from(plain), reporter.moved, stop, reporter.evaluated)


def features_task(
    plain: Mapping[str, Any],
    environment: Mapping[str, str],
    here: str,
    start: int,
    stop: int,
    basis: Any,
) -> tuple[str, Any]:
    """Return the features (stop - start, D) of a store's rows, and the name of that store.

    The name holds the digests of data and reference: those that this node has.
    """
    _settle(environment, here)
    from gstds.train.launching.ray_rows import features_of

    return features_of(plain, start, stop, basis)


def _settle(environment: Mapping[str, str], here: str) -> None:
    """Let this process find what the one that asks finds."""
    os.environ.update(environment)
    os.chdir(here)
    if here not in sys.path:
        sys.path.append(here)


class _Reporter:
    """Tells the mailbox once a second how a run goes on, and hears whether it shall stop."""

    def __init__(self, mailbox: Any, key: str, stop: Any) -> None:
        self._mailbox, self._key, self._stop = mailbox, key, stop
        self._progress: tuple[str, int, int] | None = None
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reporter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(5 * _SECONDS_BETWEEN_MESSAGES)

    def moved(self, phase: str, done: int, total: int) -> None:
        with self._lock:
            self._progress = (phase, done, total)

    def evaluated(self, row: dict[str, Any]) -> None:
        with self._lock:
            self._rows.append(dict(row))

    def _work(self) -> None:
        while not self._over.wait(_SECONDS_BETWEEN_MESSAGES):
            self._tell()
        with contextlib.suppress(Exception):  # the result says it all
            self._tell()

    def _tell(self) -> None:
        import ray

        messages = self._take()
        try:
            halted = ray.get(self._mailbox.tell.remote(self._key, messages), timeout=60)
        except ray.exceptions.RayError:  # nobody is left to take the result
            halted = True
        if halted:
            self._stop.set()

    def _take(self) -> list[tuple[str, Any]]:
        with self._lock:
            messages: list[tuple[str, Any]] = [("evaluated", row) for row in self._rows]
            if self._progress:
                messages.append(("moved", self._progress))
            self._rows, self._progress = [], None
        return messages
