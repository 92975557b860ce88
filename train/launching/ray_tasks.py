"""Work as tasks of a Ray cluster: runs of a comparison, or chunks of the reference's features.

Nothing heavy is imported before a task has its environment: libraries read it when they are loaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pickle
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.files import cache_root, locked

if TYPE_CHECKING:
    from gstds.envs.data.datasets import Data
    from gstds.envs.task.features import Extractor
    from gstds.train.launching.jobs import Ended, Job, Jobs, Watch
    from gstds.train.running.ending import StopFlag
    from gstds.train.running.options import RunConfig


_CONNECT_SECONDS, _PROBE_SECONDS, _LOOK_SECONDS = 30.0, 3.0, 60.0
_MAX_AHEAD = 512
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
_PASSED_ON = ("GSTDS_", "MLFLOW_", "OMP_WAIT_POLICY")


def run_on_ray(todo: Jobs, address: str, ended: Ended, watch: Watch, stop: StopFlag) -> None:
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
    from gstds.train.launching.jobs import RETRIES, Logs, failed_result
    from gstds.train.tracking.uploader import Upload

    uploads = {job.folder: Upload(job.tracking, job.experiment) for job in todo if job.tracking}
    logs = Logs(watch)
    with ray_cluster(address) as ray, _tokens({todo[0].folder.absolute().parent}) as wanted:
        begin = _beginner(ray, address, {job.config.device for job in todo})
        pending = {}
        for job in todo:
            pending[begin(_run_while, replace(job, folder=job.folder.absolute()), wanted)] = job
        while pending:
            done, _ = ray.wait(list(pending), timeout=0.5)
            for job in (*logs.look(pending.values()), *map(pending.__getitem__, done)):
                if job.folder in uploads:
                    uploads[job.folder].follow(job.folder)
            for reference in done:
                job = pending.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayError as error:
                    text = f"its Ray task died {RETRIES + 1} times: {_first_line(error)}"
                    result = failed_result(job.config, text)
                if result is not None:  # None: it was stopped before it began
                    ended(job, result)
            if stop.is_set:
                for path in wanted:
                    Path(path).unlink(missing_ok=True)


def _run_while(job: Job, wanted: list[str]) -> dict[str, Any] | None:
    """On a node: do a run, as long as the files that say so are there."""
    from gstds.train.launching.jobs import run_job
    from gstds.train.running.ending import StopFlag

    stop = StopFlag(lambda: bool(see_files(wanted)))
    return None if stop.is_set else run_job(job, stop=stop)


# ------------------------------------------------------------------ the reference's features


def build_on_ray(
    config: RunConfig, address: str, progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Build the store of a configuration's features, or go on with its build, by a Ray cluster.

    This process alone writes the store, chunk after chunk, as if it had computed them. A task whose
    worker dies is tried again; if this process dies, a later build goes on at the first chunk that
    is not in the store.

    Args:
        config: Names the data and the reference.
        address: As for `ray_cluster`.
        progress: Called with a phase, what is done, and the total.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If data or reference are unknown, or differ on a node; if the store is damaged.
        ConnectionError: If no cluster answers, or its workers die again and again.
        OSError: If the cache cannot be written.
    """
    from gstds.envs.task.features import build_features, find_basis, make_extractor
    from gstds.envs.task.features import reference_store_path as store_path
    from gstds.envs.task.options import EnvOptions
    from gstds.envs.task.task import load_task
    from gstds.store.format import MANIFEST_NAME

    data = load_task(EnvOptions(**config.env_options(), observe=()), progress).data
    # Here it says what is wanted; nodes compute, on the device that the configuration names.
    extractor = make_extractor(data, config.reference, config.compress)
    store = store_path(data, extractor)[0]
    if (store / MANIFEST_NAME).exists():  # whether it is whole is for its reader to say
        return
    with ray_cluster(address) as ray:
        begin = _beginner(ray, address, {config.device})
        _check_shared_files(ray, {cache_root().absolute()})
        basis = [ray.put(find_basis(data, extractor))]
        rows = len(set(data.train.rows.tolist()))
        ahead = min(_MAX_AHEAD, 2 * int(ray.cluster_resources()["CPU"]))
        content, pending = pickle.dumps(config), dict[int, Any]()

        def compute(start: int, stop: int) -> Any:
            size = stop - start
            for first in range(start, rows, size)[:ahead]:
                if first not in pending:
                    last = min(first + size, rows)
                    pending[first] = begin(_features_of, content, first, last, objects=basis)
            where = f"features of rows {start} to {stop - 1} on the Ray cluster"
            try:
                name, features = ray.get(pending.pop(start))
            except ray.exceptions.RayTaskError as error:
                raise ValueError(f"{where}: {type(error.cause).__name__}: {error.cause}") from None
            except ray.exceptions.RayError as error:
                died = f"their task died again and again ({_first_line(error)})"
                mend = "the same command goes on at these rows"
                raise ConnectionError(f"{where}: {died}; {mend}") from None
            if name != store.name:
                what = f"would build the store {name}, this process {store.name}"
                mend = "its data or its reference are others; give every node the same"
                raise ValueError(f"a node of the Ray cluster {what}: {mend}")
            return features

        build_features(data, extractor, progress, compute=compute)


def _features_of(config: bytes, start: int, stop: int, basis: Any) -> tuple[str, Any]:
    """On a node: return the name of a configuration's store, and the features of its rows.

    The name holds the digests of data and reference: those that this node has.
    """
    from gstds.envs.task.features import chunk_features, reference_store_path

    data, extractor = _prepared(config)
    name = reference_store_path(data, extractor)[0].name
    return name, chunk_features(data, extractor, basis)(start, stop)


@functools.lru_cache(maxsize=1)
def _prepared(content: bytes) -> tuple[Data, Extractor]:
    from gstds.envs.learner.learner import resolve_device
    from gstds.envs.task.features import make_extractor
    from gstds.envs.task.options import EnvOptions
    from gstds.envs.task.task import load_dataset

    config: RunConfig = pickle.loads(content)  # noqa: S301  (from the process that asks)
    data = load_dataset(EnvOptions(**config.env_options(), observe=()))
    device = resolve_device(config.device)
    return data, make_extractor(data, config.reference, config.compress, device)


# ------------------------------------------------------------------ a task


def _beginner(ray: Any, address: str, devices: set[str]) -> Callable[..., Any]:
    """Return what begins a task: a function of the task's function, its arguments, and objects.

    A task whose worker or node dies is tried again, `RETRIES` times. It has the environment
    variables that it needs to do what we would do.
    """
    from gstds.train.launching.jobs import RETRIES

    resources = _task_resources(ray, address, devices)
    task = ray.remote(max_retries=RETRIES, **resources)(run_task)
    environment = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
    environment |= {"GSTDS_CACHE": str(cache_root().absolute())}

    def begin(function: Callable[..., Any], *arguments: Any, objects: Sequence[Any] = ()) -> Any:
        call = pickle.dumps((function, arguments))
        return task.remote(environment, str(Path.cwd()), call, *objects)

    return begin


def run_task(environment: Mapping[str, str], here: str, call: bytes, *more: Any) -> Any:
    """Return what a function returns here, where it finds what the process that asks finds.

    Args:
        environment: Variables to set.
        here: The folder to work in.
        call: The function and its first arguments, pickled: reading them imports their modules.
        more: Its other arguments.
    """
    os.environ.update(environment)
    os.chdir(here)
    if here not in sys.path:
        sys.path.append(here)
    function, arguments = pickle.loads(call)  # noqa: S301  (from the process that asks)
    return function(*arguments, *more)


def see_files(paths: list[str]) -> list[str]:
    """Return the paths that this node does not see; they are opened, for network file systems."""
    unseen = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except (FileNotFoundError, NotADirectoryError):
            unseen.append(path)
    return unseen


# ------------------------------------------------------------------ the cluster


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Be connected to a Ray cluster, and yield Ray; do nothing for None, or if that is so already.

    Args:
        address: ``local`` for a cluster of this machine's cores, ``host:port``, or ``auto`` for the
            one that runs here already.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If the address is of a kind that cannot be used.
        ConnectionError: If no cluster answers there, or it does not let us in.
    """
    if address is None:
        yield None
        return
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        mend = "pip install 'gstds[ray]', or use --workers K on this machine"
        raise ImportError(f"--ray needs Ray, which is not installed ({error}): {mend}") from None
    joined = ray.is_initialized()
    if not joined:
        _connect(ray, address)
    try:
        yield ray
    finally:
        if not joined:
            ray.shutdown()


def check_cluster(address: str, jobs: Jobs) -> None:
    """Make sure that a cluster has what runs ask for, and that its nodes see their files.

    Args:
        address: As for `ray_cluster`.
        jobs: The runs.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If a run wants a GPU and the cluster has none, or a node does not see the files.
        ConnectionError: If no cluster answers.
    """
    with ray_cluster(address) as ray:
        _task_resources(ray, address, {job.config.device for job in jobs})
        places = {job.folder.absolute().parent for job in jobs}
        _check_shared_files(ray, places | {cache_root().absolute()})


def _connect(ray: Any, address: str) -> None:
    """Start a cluster of this machine here, where its processes die with the thread; or join one.

    A cluster is joined in a thread of its own: a wrong address hangs, and signals stay ours.
    """
    mend = "start one with ray start --head, give the address that it shows, or use --ray local"
    nobody = f"no Ray cluster answers at {address!r}; {mend}"
    if address == "local":
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(address=address, include_dashboard=False, **_QUIET)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end us without a checkpoint
        return
    if address != "auto":
        _probe(address, nobody)
    failure: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=address, **_QUIET)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=join, name="ray connection", daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    if thread.is_alive():
        raise ConnectionError(f"{nobody} (no answer in {_CONNECT_SECONDS:.0f} s)")
    if failure:
        hint = "; a cluster with tokens wants RAY_AUTH_MODE=token and its token here too"
        raise ConnectionError(f"{nobody} ({_first_line(failure[0])}{hint})")


def _probe(address: str, nobody: str) -> None:
    """Ask whether somebody listens at ``host:port``: Ray itself waits for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        wanted = "host:port of a cluster's head (ray start --head shows it), auto or local"
        raise ValueError(f"--ray must be {wanted}, got {address!r}")
    try:
        socket.create_connection((host, int(port)), _PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{nobody} ({error})") from None


def _task_resources(ray: Any, address: str, wanted: set[str]) -> dict[str, float]:
    """Return what a task asks for, given the devices that are wanted.

    Ray would wait for ever for what the cluster does not have.
    """
    there = ray.cluster_resources()
    if there.get("CPU", 0) < 1:
        raise ValueError(f"the Ray cluster at {address!r} has no processor for a run")
    gpus = there.get("GPU", 0)
    if any(device.startswith("cuda") for device in wanted) and gpus < 1:
        found = f"the Ray cluster at {address!r} has none"
        mend = "add a node that has one, or use --device cpu"
        raise ValueError(f"device 'cuda' needs a GPU, and {found}; {mend}")
    return {"num_cpus": 1, "num_gpus": int(gpus >= 1 and wanted != {"cpu"})}


def _check_shared_files(ray: Any, places: set[Path]) -> None:
    """Refuse a node that does not see the runs' folder or the cache; the message names both."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with _tokens(places) as tokens:
        looks = {}
        for node in filter(lambda node: node["Alive"], ray.nodes()):
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = ray.remote(num_cpus=0, scheduling_strategy=where)(see_files)
            looks[look.remote(tokens)] = f"node {node['NodeManagerAddress']} of the Ray cluster"
        for reference, node in looks.items():
            try:
                unseen = ray.get(reference, timeout=_LOOK_SECONDS)
            except ray.exceptions.GetTimeoutError:
                raise ValueError(f"{node} started no task in {_LOOK_SECONDS:.0f} s") from None
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                mend = "install the same version on every node"
                raise ValueError(f"{node} cannot run gstds ({reason}); {mend}") from None
            if unseen:
                mend = "--out and $GSTDS_CACHE must be on a file system that all nodes share"
                raise ValueError(f"{node} does not see {Path(unseen[0]).parent}; {mend}")


@contextlib.contextmanager
def _tokens(places: set[Path]) -> Iterator[list[str]]:
    """Yield a file in each place, there and locked as long as this lasts.

    One that nobody holds is of a command that was killed, and is taken away.
    """
    with contextlib.ExitStack() as held:
        paths = [place / f".seen-{uuid.uuid4().hex}" for place in sorted(places)]
        for path in paths:
            for old in path.parent.glob(".seen-*"):
                with contextlib.suppress(OSError), locked(old, wait=0, keep=False):
                    pass
            held.enter_context(locked(path, wait=0, keep=False))
        yield [str(path) for path in paths]


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
