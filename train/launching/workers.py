"""Runs in worker processes. A worker that is killed costs its run the way back to a checkpoint.

The standard library's pool breaks as a whole when one of its processes dies, so this one is its
own: a pipe to each worker for runs and results, and whoever dies is replaced, its run tried again.
How a run goes on stands in its log.

On Linux the processes are forked from a server that has imported what they need, so that they begin
at once. Where there is a GPU they are spawned: what was forked after a look at the driver cannot
use it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from gstds.train.launching.jobs import Ended, Job, Logs, Watch, failed_result, run_job, run_name
from gstds.train.running.ending import StopFlag

__all__ = ["RETRIES", "run_in_processes", "start_method", "warm_up"]

RETRIES = 2
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
        self.job: Job | None = None
        warm_up(threads)
        with _environment(threads):
            # A server has the environment in which it began, which may be another by now.
            words = (theirs, str(Path.cwd()), dict(os.environ))
            self.process = context.Process(target=_work, args=words, name="gstds")  # type: ignore[attr-defined]
            self.process.start()
        theirs.close()

    def send(self, job: Job | None) -> bool:
        """Hand over a run, or None for the end; return whether the process took it."""
        with contextlib.suppress(OSError):
            self.pipe.send(job)
            self.job = job
            return True
        return False

    def end(self) -> None:
        """Let the process end, after what it does now; kill it if it does not."""
        self.send(None)
        self.process.join(_SECONDS_TO_END)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


class _Crew:
    """Workers, the runs that wait for one, and how often each run was tried."""

    def __init__(self, todo: Sequence[Job], ended: Ended, watch: Watch, stop: StopFlag) -> None:
        self._queue, self._lost = deque(todo), Counter[Path]()
        self._ended, self._watch, self._stop = ended, watch, stop
        self._crew: list[_Worker] = []

    def work(self, workers: int) -> None:
        """Return when all runs have ended, or all workers have stopped."""
        logs, stopping = Logs(self._watch), False
        while self._queue or self._busy():
            if self._stop.is_set and not stopping:  # runs that did not begin are left
                stopping = True
                self._queue.clear()
                for worker in self._busy():
                    worker.process.terminate()  # SIGTERM: a checkpoint, then the end
            while self._queue and len(self._busy()) < workers and self._hand_out():
                pass
            ready = wait([worker.pipe for worker in self._crew], timeout=0.5)
            for worker in [worker for worker in self._crew if worker.pipe in ready]:
                self._listen(worker)
            logs.look([worker.job for worker in self._busy() if worker.job])

    def dismiss(self) -> None:
        """End every process; one that still has a run, and was not asked to stop, is killed."""
        for worker in self._busy():
            worker.process.kill()
        for worker in self._crew:
            worker.end()

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._crew if worker.job is not None]

    def _hand_out(self) -> bool:
        """Give the next run to a worker; return whether it took it."""
        job = self._queue[0]
        idle = [worker for worker in self._crew if worker.job is None]
        worker = idle[0] if idle else _Worker(job.threads)
        if worker not in self._crew:
            self._crew.append(worker)
        taken = worker.send(job)
        if taken:
            self._watch.moved(self._queue.popleft(), "starting", 0, 0)
        else:
            self._remove(worker)
        return taken

    def _listen(self, worker: _Worker) -> None:
        """Take a run's result; replace a process that is gone, its run goes on in another."""
        job, worker.job = worker.job, None
        reason, result = "was told to stop from outside", None
        try:
            result = worker.pipe.recv()
        except (EOFError, OSError):
            self._remove(worker)
            reason = _cause_of_death(worker.process.exitcode)
        if job is None:
            return
        if result and (result["status"] != "interrupted" or self._stop.is_set):
            self._ended(job, result)
            return
        self._lost[job.folder] += 1
        lost = self._lost[job.folder]
        if self._stop.is_set or lost > RETRIES:
            error = f"its worker process {reason}, {lost} times"
            self._ended(job, {**(result or failed_result(job.config, "")), "error": error})
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
    changed, before = dict.fromkeys(_THREADS, str(threads)) | more, dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        for name in changed.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: before[name] for name in changed.keys() & before.keys()})


def _work(pipe: Connection, here: str, environment: dict[str, str]) -> None:
    """In the worker: do runs that come through the pipe until it says None, or nobody is left."""
    os.environ.clear()
    os.environ.update(environment)
    parent = parent_process()
    stop = StopFlag(lambda: parent is not None and not parent.is_alive())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop.set)
    if here not in sys.path:
        sys.path.append(here)
    with contextlib.suppress(EOFError, OSError):
        while not stop.is_set and (job := pipe.recv()) is not None:
            pipe.send(run_job(job, stop=stop))
