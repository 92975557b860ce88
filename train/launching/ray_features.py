"""The reference's features by the tasks of a Ray cluster: a chunk of the store's rows each.

This process alone writes the store, chunk after chunk, as if it had computed them: what is there,
what a stopped build leaves and how a later one goes on do not depend on who computes.
"""

from __future__ import annotations

import functools
import pickle
from typing import Any

from gstds.common.files import cache_root
from gstds.envs.data.datasets import Data
from gstds.envs.learner.learner import resolve_device
from gstds.envs.task.features import (
    Extractor,
    build_features,
    chunk_features,
    find_basis,
    make_extractor,
    reference_store_path,
)
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.task import load_dataset, load_task
from gstds.store.format import MANIFEST_NAME
from gstds.train.launching.jobs import Progress
from gstds.train.launching.ray_runs import (
    check_shared_files,
    first_line,
    import_ray,
    ray_cluster,
    remote,
    task_resources,
)
from gstds.train.launching.workers import RETRIES
from gstds.train.running.options import RunConfig

__all__ = ["build_on_ray"]

MAX_AHEAD = 512


def build_on_ray(config: RunConfig, address: str, progress: Progress | None = None) -> None:
    """Build the store of a configuration's features, or go on with its build, by a Ray cluster.

    A task whose worker dies is tried again; if this process dies, a later build goes on at the
    first chunk that is not in the store.

    Args:
        config: Names the data and the reference.
        address: As for `gstds.train.launching.ray_runs.ray_cluster`.
        progress: Called with a phase, what is done, and the total.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If data or reference are unknown, or differ on a node; if the store is damaged.
        ConnectionError: If no cluster answers, or its workers die again and again.
        OSError: If the cache cannot be written.
    """
    data = load_task(EnvOptions(**config.env_options(), observe=()), progress).data
    # Here it says what is wanted; nodes compute, on the device that the configuration names.
    extractor = make_extractor(data, config.reference, config.compress)
    store = reference_store_path(data, extractor)[0]
    if (store / MANIFEST_NAME).exists():  # whether it is whole is for its reader to say
        return
    with ray_cluster(address):
        ray = import_ray()
        resources = task_resources(ray, address, {config.device})
        check_shared_files(ray, {cache_root().absolute()})
        begin, basis = remote(ray, resources), [ray.put(find_basis(data, extractor))]
        rows = len(set(data.train.rows.tolist()))
        ahead = min(MAX_AHEAD, 2 * int(ray.cluster_resources()["CPU"]))
        content, pending = pickle.dumps(config), dict[int, Any]()

        def compute(start: int, stop: int) -> Any:
            size = stop - start
            for first in range(start, rows, size)[:ahead]:
                if first not in pending:
                    last = min(first + size, rows)
                    pending[first] = begin(_features_of, content, first, last, objects=basis)
            where = f"features of rows {start} to {stop - 1} on the Ray cluster"
            name, features = _result(ray, pending.pop(start), where)
            if name != store.name:
                raise ValueError(
                    f"a node of the Ray cluster would build the store {name}, this process "
                    f"{store.name}: its data or its reference are others; give every node the same"
                )
            return features

        build_features(data, extractor, progress, compute=compute)


def _result(ray: Any, reference: Any, where: str) -> tuple[str, Any]:
    """Return what `_features_of` returned on a node.

    Raises:
        ValueError: If it raised.
        ConnectionError: If the task's workers died.
    """
    try:
        result: tuple[str, Any] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise ValueError(f"{where}: {type(error.cause).__name__}: {error.cause}") from None
    except ray.exceptions.RayError as error:
        raise ConnectionError(
            f"{where}: their task died {RETRIES + 1} times ({first_line(error)}); "
            "the same command goes on at these rows"
        ) from None
    return result


def _features_of(config: bytes, start: int, stop: int, basis: Any) -> tuple[str, Any]:
    """On a node: return the name of a configuration's store, and the features of its rows.

    The name holds the digests of data and reference: those that this node has.
    """
    data, extractor = _prepared(config)
    name = reference_store_path(data, extractor)[0].name
    return name, chunk_features(data, extractor, basis)(start, stop)


@functools.lru_cache(maxsize=1)
def _prepared(content: bytes) -> tuple[Data, Extractor]:
    config: RunConfig = pickle.loads(content)  # noqa: S301  (from the process that asks)
    data = load_dataset(EnvOptions(**config.env_options(), observe=()))
    device = resolve_device(config.device)
    return data, make_extractor(data, config.reference, config.compress, device)
