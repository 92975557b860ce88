"""Runs in worker processes. A worker that is killed costs its run the way back to a checkpoint.

The standard library's pool breaks as a whole when one of its processes dies, so this one is its
own: a pipe to each worker, and whoever dies is replaced, its run tried again.

On Linux the processes are forked from a server that has imported what they need, so that they begin
at once. Where there is a GPU they are spawned: what was forked after a look at the driver cannot
use it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from gstds.train.launching.jobs import Ended, Job, Watch, failed_result, run_job, run_name
from gstds.train.running.run import StopFlag

__all__ = ["RETRIES", "run_in_processes", "start_method", "warm_up"]

RETRIES = 2
_SECONDS_BETWEEN_MESSAGES = 0.5
_SECONDS_TO_END = 10.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def warm_up(threads: int) -> None:
    """Begin to import what workers need, while this process does something else.

    Args:
        threads: What the libraries may use, in every worker; they read it when they are loaded.
    """
    if start_method() == "forkserver":
        with _environment(threads, PYTHONSAFEPATH="1"):  # no module of the working folder's
            get_context("forkserver").set_forkserver_preload(
                ["gstds.train.launching.worker_imports"]
            )
            forkserver.ensure_running()


def run_in_processes(
    todo: Sequence[Job], workers: int, ended: Ended, watch: Watch, stop: StopFlag
) -> None:
    """Do runs in processes of their own, side by side.

    A run whose process dies is tried again from its last checkpoint, `RETRIES` times. When ``stop``
    is set, every process saves a checkpoint and ends.

    Args:
        todo: The runs, in the order in which they begin.
        workers: Number of processes.
        ended: Called with each run and its result.
        watch: Is told what happens.
        stop: Looked at twice a second.
    """
    crew = _Crew(todo, ended, watch, stop)
    try:
        crew.work(min(workers, len(todo)))
    finally:
        crew.dismiss()


class _Worker:
    """One process, the parent's end of its pipe, and the run it does."""

    def __init__(self, threads: int) -> None:
        context = get_context(start_method())
        self.pipe, theirs = context.Pipe()
        warm_up(threads)
        with _environment(threads):
            # A server has the environment in which it began, which may be another by now.
            words = (theirs, str(Path.cwd()), dict(os.environ))
            self.process = context.Process(target=_work, args=words, name="gstds")  # type: ignore[attr-defined]
            self.process.start()
        theirs.close()
        self.job: Job | None = None

    def begin(self, job: Job) -> bool:
        """Hand over a run; return whether the process took it."""
        try:
            self.pipe.send(job)
        except OSError:
            return False
        self.job = job
        return True

    def end(self) -> None:
        """Let the process end, after what it does now; kill it if it does not."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(_SECONDS_TO_END)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


class _Crew:
    """Workers, the runs that wait for one, and how often each run was tried."""

    def __init__(self, todo: Sequence[Job], ended: Ended, watch: Watch, stop: StopFlag) -> None:
        self._queue = deque(todo)
        self._threads = todo[0].threads if todo else 1
        self._ended, self._watch, self._stop = ended, watch, stop
        self._crew: list[_Worker] = []
        self._lost: Counter[Path] = Counter()
        self._stopping = False

    def work(self, workers: int) -> None:
        """Return when all runs have ended, or all workers have stopped."""
        while self._queue or self._busy():
            if self._stop.is_set:
                self._halt()
            else:
                self._hand_out(workers)
            for pipe in wait([worker.pipe for worker in self._crew], timeout=0.5):
                self._listen(next(w for w in self._crew if w.pipe is pipe))

    def dismiss(self) -> None:
        """End every process; one that still has a run, and was not asked to stop, is killed."""
        for worker in self._crew:
            if worker.job is not None:
                worker.process.kill()
        for worker in self._crew:
            worker.end()
        self._crew = []

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._crew if worker.job is not None]

    def _hand_out(self, workers: int) -> None:
        for worker in list(self._crew):
            if worker.job is None and self._queue and not self._take(worker):
                self._remove(worker)
        while self._queue and len(self._crew) < workers:
            self._crew.append(_Worker(self._threads))
            self._take(self._crew[-1])

    def _take(self, worker: _Worker) -> bool:
        job = self._queue.popleft()
        taken = worker.begin(job)
        if not taken:
            self._queue.appendleft(job)
        return taken

    def _halt(self) -> None:
        """Ask every worker to stop, once; runs that did not begin are left."""
        self._queue.clear()
        if not self._stopping:
            self._stopping = True
            for worker in self._busy():
                worker.process.terminate()  # SIGTERM: a checkpoint, then the end

    def _listen(self, worker: _Worker) -> None:
        try:
            kind, *content = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        job = worker.job
        if job is None:
            return
        if kind == "moved":
            self._watch.moved(job, *content)
        elif kind == "evaluated":
            self._watch.evaluated(job, *content)
        else:
            worker.job = None
            self._take_result(job, content[0])

    def _take_result(self, job: Job, result: dict[str, Any]) -> None:
        if result["status"] == "interrupted" and not self._stop.is_set:
            self._again(job, "was told to stop from outside", result)
        else:
            self._ended(job, result)

    def _bury(self, worker: _Worker) -> None:
        """Replace a process that is gone; its run, if it had one, goes on in another."""
        job, worker.job = worker.job, None
        self._remove(worker)
        if job is not None:
            reason = _cause_of_death(worker.process.exitcode)
            self._again(job, reason, failed_result(job.config, f"its worker process {reason}"))

    def _again(self, job: Job, reason: str, result: dict[str, Any]) -> None:
        self._lost[job.folder] += 1
        lost = self._lost[job.folder]
        if self._stop.is_set or lost > RETRIES:
            error = f"its worker process {reason}, {lost} times"
            self._ended(job, {**result, "error": error})
            return
        self._watch.note(
            f"{run_name(job)}: its worker process {reason}; "
            f"going on from the last checkpoint (try {lost + 1} of {RETRIES + 1})"
        )
        self._queue.appendleft(job)

    def _remove(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        worker.end()


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit code {code}"


def start_method() -> str:
    """Return how worker processes begin here: from a server, or each anew."""
    import torch

    return "forkserver" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"


@contextlib.contextmanager
def _environment(threads: int, **more: str) -> Iterator[None]:
    """Set variables for children: libraries read the number of threads when they are loaded."""
    changed = dict.fromkeys(_THREADS, str(threads)) | more
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---------------------------------------------------------------------------------- in the worker


def _work(pipe: Connection, here: str, environment: dict[str, str]) -> None:
    """Do runs that come through the pipe until it says None, or the parent is gone."""
    os.environ.clear()
    os.environ.update(environment)
    stop = StopFlag()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop.set)
    if here not in sys.path:
        sys.path.append(here)
    with contextlib.suppress(EOFError, OSError):
        while not stop.is_set and (job := pipe.recv()) is not None:
            teller = _Teller(pipe, stop)
            pipe.send(("ended", run_job(job, teller.moved, stop, teller.evaluated)))


class _Teller:
    """Tells the parent how a run goes on, twice a second at most; stops when it is gone."""

    def __init__(self, pipe: Connection, stop: StopFlag) -> None:
        self._pipe, self._stop = pipe, stop
        self._last = 0.0

    def moved(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_MESSAGES:
            self._last = now
            self._send("moved", phase, done, total)

    def evaluated(self, row: Mapping[str, Any]) -> None:
        self._send("evaluated", dict(row))

    def _send(self, *message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError:  # the parent is gone: nobody would take the result
            self._stop.set()
