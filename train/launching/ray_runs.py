"""Runs as tasks of a Ray cluster: connecting with errors that help, handing out, collecting."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gstds.common.files import cache_root
from gstds.train.launching.jobs import Ended, Job, Logs, Watch, failed_result, run_job
from gstds.train.launching.ray_tasks import run_task, see_files
from gstds.train.launching.workers import RETRIES
from gstds.train.running.ending import StopFlag
from gstds.train.tracking.uploader import Upload

__all__ = ["check_cluster", "check_shared_files", "first_line", "import_ray", "ray_cluster"]
__all__ += ["remote", "run_on_ray", "task_resources"]

LOCAL = "local"
_CONNECT_SECONDS = 30.0
_PROBE_SECONDS = 3.0
_LOOK_SECONDS = 60.0
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
_PASSED_ON = ("GSTDS_", "MLFLOW_", "OMP_WAIT_POLICY")


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Be connected to a Ray cluster; for None, or where that is so already, do nothing.

    Args:
        address: ``local`` for a cluster of this machine's cores, ``host:port``, or ``auto`` for the
            one that runs here already.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If the address is of a kind that cannot be used.
        ConnectionError: If no cluster answers there, or it does not let us in.
    """
    if address is None or import_ray().is_initialized():
        yield
        return
    ray = import_ray()
    _probe(address)
    (_start if address == LOCAL else _join)(ray, address)
    try:
        yield
    finally:
        ray.shutdown()


def check_cluster(address: str, jobs: Sequence[Job]) -> None:
    """Make sure that a cluster has what runs ask for, and that its nodes see their files.

    Args:
        address: As for `ray_cluster`.
        jobs: The runs.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If a run wants a GPU and the cluster has none, or a node does not see the files.
        ConnectionError: If no cluster answers.
    """
    with ray_cluster(address):
        ray = import_ray()
        task_resources(ray, address, _devices(jobs))
        places = {job.folder.absolute().parent for job in jobs} | {cache_root().absolute()}
        check_shared_files(ray, places)


def run_on_ray(
    todo: Sequence[Job], address: str, ended: Ended, watch: Watch, stop: StopFlag
) -> None:
    """Do runs as tasks of a Ray cluster, one processor each, and a GPU where the cluster has some.

    A task whose worker or node dies is tried again from the last checkpoint, `RETRIES` times. When
    ``stop`` is set, every run saves a checkpoint and ends.

    Args:
        todo: The runs.
        address: As for `ray_cluster`.
        ended: Called with each run and its result.
        watch: Is told what happens.
        stop: Looked at twice a second.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If a run wants a GPU and the cluster has none.
        ConnectionError: If no cluster answers.
    """
    with ray_cluster(address), _tokens({todo[0].folder.absolute().parent}) as wanted:
        ray = import_ray()
        begin = remote(ray, task_resources(ray, address, _devices(todo)))
        pending = {
            begin(_run_while, replace(job, folder=job.folder.absolute()), wanted): job
            for job in todo
        }
        _collect(ray, pending, wanted, ended, watch, stop)


def remote(ray: Any, resources: Mapping[str, float]) -> Callable[..., Any]:
    """Return what begins a task: a function of the task's function, its arguments, and objects.

    A task whose worker or node dies is tried again, `RETRIES` times. It has the environment
    variables that it needs to do what we would do.
    """
    task = ray.remote(max_retries=RETRIES, **resources)(run_task)
    environment = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
    environment |= {"GSTDS_CACHE": str(cache_root().absolute())}

    def begin(function: Callable[..., Any], *arguments: Any, objects: Sequence[Any] = ()) -> Any:
        call = pickle.dumps((function, arguments))
        return task.remote(environment, str(Path.cwd()), call, *objects)

    return begin


def _run_while(job: Job, wanted: list[str]) -> dict[str, Any] | None:
    """On a node: do a run, as long as the files that say so are there."""
    stop = StopFlag(lambda: bool(see_files(wanted)))
    return None if stop.is_set else run_job(job, stop=stop)


def _devices(jobs: Sequence[Job]) -> set[str]:
    return {job.config.device for job in jobs}


def _collect(
    ray: Any,
    pending: dict[Any, Job],
    wanted: list[str],
    ended: Ended,
    watch: Watch,
    stop: StopFlag,
) -> None:
    logs = Logs(watch)
    uploads = {j.folder: Upload(j.tracking, j.experiment) for j in pending.values() if j.tracking}
    while pending:
        done, _ = ray.wait(list(pending), timeout=0.5)
        for job in (*logs.look(pending.values()), *(pending[reference] for reference in done)):
            if job.folder in uploads:
                uploads[job.folder].follow(job.folder)
        for reference in done:
            job = pending.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError as error:
                text = f"its Ray task died {RETRIES + 1} times: {first_line(error)}"
                result = failed_result(job.config, text)
            if result is not None:  # None: it was stopped before it began
                ended(job, result)
        if stop.is_set:
            for path in wanted:
                Path(path).unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """Return an error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def import_ray() -> Any:
    """Return the package.

    Raises:
        ImportError: If it is not installed; the message says what to do.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            f"--ray needs Ray, which is not installed ({error}): pip install 'gstds[ray]', "
            "or use --workers K on this machine"
        ) from None


def _probe(address: str) -> None:
    """Ask whether somebody listens at ``host:port``: Ray itself waits for minutes."""
    if address in (LOCAL, "auto"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not host or not port.isdigit():
        raise ValueError(
            f"--ray must be host:port of a cluster's head (ray start --head shows it), auto or "
            f"local, got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), _PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{_nobody(address)} ({error})") from None


def _nobody(address: str) -> str:
    return (
        f"no Ray cluster answers at {address!r}; start one with ray start --head, give the address "
        "that it shows, or use --ray local"
    )


def _start(ray: Any, address: str) -> None:
    """Start a cluster of this machine, in this thread: its processes die with the thread."""
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address=address, include_dashboard=False, **_QUIET)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end us without a checkpoint


def _join(ray: Any, address: str) -> None:
    """Connect in a thread of its own: a wrong address hangs, and signals stay ours."""
    failure: list[BaseException] = []

    def connect() -> None:
        try:
            ray.init(address=address, **_QUIET)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=connect, name="ray connection", daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    if thread.is_alive():
        raise ConnectionError(f"{_nobody(address)} (no answer in {_CONNECT_SECONDS:.0f} s)")
    if failure:
        hint = "; a cluster with tokens wants RAY_AUTH_MODE=token and its token here too"
        raise ConnectionError(f"{_nobody(address)} ({first_line(failure[0])}{hint})")


def task_resources(ray: Any, address: str, wanted: set[str]) -> dict[str, float]:
    """Return what a task asks for, given the devices that are wanted.

    Ray would wait for ever for what the cluster does not have.

    Raises:
        ValueError: If the cluster has no processor, or no GPU where a run wants one.
    """
    there = ray.cluster_resources()
    if there.get("CPU", 0) < 1:
        raise ValueError(f"the Ray cluster at {address!r} has no processor for a run")
    gpus = there.get("GPU", 0)
    if any(device.startswith("cuda") for device in wanted) and gpus < 1:
        raise ValueError(
            f"device 'cuda' needs a GPU, and the Ray cluster at {address!r} has none; "
            "add a node that has one, or use --device cpu"
        )
    use_gpu = gpus >= 1 and wanted != {"cpu"}
    return {"num_cpus": 1, "num_gpus": 1 if use_gpu else 0}


def check_shared_files(ray: Any, places: set[Path]) -> None:
    """Make sure that every node sees some folders: the runs' and the cache.

    Raises:
        ValueError: If one does not; the message names the node and the place.
    """
    with _tokens(places) as tokens:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        looks = {}
        for node in filter(lambda node: node["Alive"], ray.nodes()):
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = ray.remote(num_cpus=0, scheduling_strategy=where)(see_files)
            looks[look.remote(tokens)] = node["NodeManagerAddress"]
        for reference, name in looks.items():
            unseen = _look(ray, reference, name)
            if unseen:
                raise ValueError(
                    f"node {name} of the Ray cluster does not see {Path(unseen[0]).parent}; --out "
                    "and $GSTDS_CACHE must be on a file system that all nodes share"
                )


def _look(ray: Any, reference: Any, name: str) -> list[str]:
    try:
        unseen: list[str] = ray.get(reference, timeout=_LOOK_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise ValueError(
            f"node {name} of the Ray cluster started no task in {_LOOK_SECONDS:.0f} s"
        ) from None
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"node {name} of the Ray cluster cannot run gstds ({reason}); install the same version "
            "on every node"
        ) from None
    return unseen


@contextlib.contextmanager
def _tokens(places: set[Path]) -> Iterator[list[str]]:
    paths = [place / f".seen-{uuid.uuid4().hex}" for place in sorted(places)]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield [str(path) for path in paths]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
