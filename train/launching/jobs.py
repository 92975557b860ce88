"""Runs of a comparison: what one is, doing it here or in worker processes, and who watches.

A worker that is killed costs its run the way back to a checkpoint. The standard library's pool
breaks as a whole when one of its processes dies, so this one is its own: a pipe to each worker for
runs and results, and whoever dies is replaced, its run tried again. How a run goes on stands in its
log; what it does before there is one comes through the pipe.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_sealed
from gstds.train.running.ending import StopFlag
from gstds.train.running.folder import FolderInUseError
from gstds.train.running.options import RunConfig
from gstds.train.running.run import execute
from gstds.train.tracking.log import LOG_NAME, read_log
from gstds.train.tracking.uploader import Upload

Ended = Callable[["Job", dict[str, Any]], None]
Jobs = Sequence["Job"]
Share = float | None

RECORD = ("tracking", "experiment", "checkpoint_every", "command")
"""What a run has of its comparison by the same name."""

RETRIES = 2
"""How often a run whose process died is tried again, from its last checkpoint."""

_SECONDS_BETWEEN_TRIES, _SECONDS_BETWEEN_LOOKS, _SECONDS_TO_END = 0.2, 0.5, 10.0
_PRELOADED = "gstds.train.launching.worker_imports"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        label: The row of the comparison that it belongs to: a policy, or one with options.
        config: The run's options.
        folder: Where it goes.
        tracking: URI of the tracking store, None for no tracking.
        experiment: The tracking store's experiment.
        tags: Tags of its record.
        checkpoint_every: Steps between checkpoints.
        command: The command that asked for it.
        threads: Threads that it may use.
        elsewhere: It is done on another machine, whose devices are not those here.
    """

    label: str
    config: RunConfig
    folder: Path
    tracking: str | None
    experiment: str
    tags: dict[str, str]
    checkpoint_every: int
    command: str
    threads: int
    elsewhere: bool = False

    @property
    def name(self) -> str:
        """What the run is called while it goes on."""
        return f"{self.label} seed {self.config.seed}"


def run_job(
    job: Job, progress: Callable[[str, int, int], None] | None = None, stop: StopFlag | None = None
) -> dict[str, Any]:
    """Do one run, or go on with it; a failed run is a result too.

    Args:
        job: The run. A process that still saves its last checkpoint there is waited for.
        progress: Called with a phase, what is done, and the total.
        stop: Looked at between steps, and while waiting.
    """
    stop = stop or StopFlag()
    upload = Upload(job.tracking, job.experiment, elsewhere=job.elsewhere) if job.tracking else None
    how: dict[str, Any] = {"upload": upload, "tags": job.tags, "command": job.command}
    how |= {"checkpoint_every": job.checkpoint_every, "progress": progress, "stop": stop}
    with _limited_threads(job.threads):
        while not stop.is_set:
            begun = (job.folder / "config.json").exists()
            try:
                return execute(job.config, job.folder, resume=begun, **how)
            except FolderInUseError:
                time.sleep(_SECONDS_BETWEEN_TRIES)
            except (Exception, SystemExit) as error:  # users' code may end itself
                with contextlib.suppress(OSError, ValueError):
                    return read_sealed(job.folder / "result.json")
                return failed_result(job.config, f"{type(error).__name__}: {error}")
    return failed_result(job.config, "stopped before it began", "interrupted")


@contextlib.contextmanager
def _limited_threads(threads: int) -> Iterator[None]:
    """Keep torch and the linear algebra libraries to a number of threads, as long as this lasts."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def failed_result(config: RunConfig, error: str, status: str = "failed") -> dict[str, Any]:
    """Return the result of a run that ended before it could write one."""
    names = ("run_id", "test_accuracy", "test_loss", "train_loss", "mean_keep", "charged_flops")
    more = ("reference_flops", "full_flops", "seconds", "steps", "weights_sha256", "val_accuracy")
    own = {name: getattr(config, name) for name in ("policy", "seed", "dataset", "learner")}
    told = {"seconds_by_phase": {}, "history": [], "status": status, "error": error}
    return own | dict.fromkeys((*names, *more)) | told


class Watch:
    """Is told what happens to the runs of a comparison; this one does not care."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """What comes before the runs has done ``done`` of ``total`` of a phase."""

    def expect(self, jobs: Jobs) -> None:
        """Take note of all runs that there will be."""

    def moved(self, job: Job, phase: str, done: int, total: int, accuracy: Share = None) -> None:
        """A run has done ``done`` of ``total`` of a phase, and may have been evaluated."""

    def ended(self, job: Job, result: Mapping[str, Any], old: bool = False) -> None:
        """A run has ended, well or not, now or before (``old``)."""

    def note(self, text: str) -> None:
        """Something happened that a person should know."""


@dataclass
class Logs:
    """Reads the logs of runs that go on, whoever does them, and tells a watch.

    Args:
        watch: Is told how far each run is, and its accuracy on selection-validation.
    """

    watch: Watch
    _read: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _next: float = 0.0

    def look(self, jobs: Iterable[Job]) -> list[Job]:
        """Read what is new, twice a second at most; return the runs that were evaluated."""
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        return [job for job in jobs if self._look(job)]

    def _look(self, job: Job) -> bool:
        offset, total = self._read.get(job.folder, (0, 0))
        step, accuracy = None, None
        # No log yet, or a damaged one: that is for the run itself to say.
        with contextlib.suppress(OSError, ValueError):
            for line, end in read_log(job.folder / LOG_NAME, offset):
                offset, total, step = end, line.get("steps", total), line.get("step", step)
                accuracy = line.get("values", {}).get("val/accuracy", accuracy)
        self._read[job.folder] = offset, total
        if step is not None:
            self.watch.moved(job, "training", step, total, accuracy)
        return accuracy is not None


# ------------------------------------------------------------------ worker processes


def warm_up(threads: int) -> None:
    """Begin to import what workers need, while this process does something else.

    Args:
        threads: What the libraries may use, in every worker; they read it when they are loaded.
    """
    if start_method() == "forkserver":
        with _environment(threads, PYTHONSAFEPATH="1"):  # no module of the working folder's
            get_context("forkserver").set_forkserver_preload([_PRELOADED])
            forkserver.ensure_running()


def start_method() -> str:
    """Return how worker processes begin here: from a server, or each anew."""
    import torch

    return "forkserver" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"


@contextlib.contextmanager
def _environment(threads: int, **more: str) -> Iterator[None]:
    """Set variables for children: libraries read the number of threads when they are loaded."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(_THREADS, str(threads)) | more)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def run_in_processes(todo: Jobs, workers: int, ended: Ended, watch: Watch, stop: StopFlag) -> None:
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

    def send(self, job: Job | None) -> None:
        """Hand over a run, or None for the end; a process that is gone does not take it."""
        with contextlib.suppress(OSError):
            self.pipe.send(job)
            self.job = job

    def end(self) -> None:
        """Let the process end, after what it does now; kill it if it does not."""
        self.send(None)
        self.process.join(_SECONDS_TO_END)
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def cause_of_death(self) -> str:
        """Say how the process ended."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"


class _Crew:
    """Workers, the runs that wait for one, and how often each run was tried."""

    def __init__(self, todo: Jobs, ended: Ended, watch: Watch, stop: StopFlag) -> None:
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
            while self._queue and len(self._busy()) < workers:
                self._hand_out()
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

    def _hand_out(self) -> None:
        """Give the next run to a worker; one that does not take it is gone."""
        job = self._queue[0]
        idle = [worker for worker in self._crew if worker.job is None]
        if not idle:
            self._crew += (idle := [_Worker(job.threads)])
        idle[0].send(job)
        if idle[0].job:
            self._watch.moved(self._queue.popleft(), "starting", 0, 0)
        else:
            self._remove(idle[0])

    def _listen(self, worker: _Worker) -> None:
        """Take a run's news or result; replace a process that is gone."""
        job, message = worker.job, None
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._remove(worker)
        if job is None:
            return
        if isinstance(message, tuple):
            self._watch.moved(job, *message)
            return
        worker.job = None
        if message and (message["status"] != "interrupted" or self._stop.is_set):
            self._ended(job, message)
            return
        reason = "was told to stop from outside" if message else worker.cause_of_death()
        self._lost[job.folder] += 1
        lost = self._lost[job.folder]
        if self._stop.is_set or lost > RETRIES:
            error = f"its worker process {reason}, {lost} times"
            self._ended(job, {**(message or failed_result(job.config, "")), "error": error})
            return
        again = f"going on from the last checkpoint (try {lost + 1} of {RETRIES + 1})"
        self._watch.note(f"{job.name}: its worker process {reason}; {again}")
        self._queue.appendleft(job)

    def _remove(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        worker.end()


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

    def tell(phase: str, done: int, total: int) -> None:
        if phase != "training":  # that stands in the log
            with contextlib.suppress(OSError):
                pipe.send((phase, done, total))

    with contextlib.suppress(EOFError, OSError):
        while not stop.is_set and (job := pipe.recv()) is not None:
            pipe.send(run_job(job, tell, stop))
