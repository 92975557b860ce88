"""The reference's features by the tasks of a Ray cluster: a chunk of the store's rows each.

This process alone writes the store, chunk after chunk, as if it had computed them: what is there,
what a stopped build leaves and how a later one goes on do not depend on who computes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gstds.common.files import cache_root
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
from gstds.reference.networks import Reference, make_reference
from gstds.store.compression import parse_compression
from gstds.store.format import MANIFEST_NAME
from gstds.train.launching.ray_runs import (
    RETRIES,
    check_shared_files,
    import_ray,
    ray_cluster,
    remote,
    task_resources,
)
from gstds.train.running.options import RunConfig

__all__ = ["build_on_ray"]

Progress = Callable[[str, int, int], None]
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
        chunks = _Chunks(
            ray,
            lambda start, stop: begin(_features_of, config, start, stop, objects=basis),
            rows=len(set(data.train.rows.tolist())),
            ahead=min(MAX_AHEAD, 2 * int(ray.cluster_resources()["CPU"])),
            store=store.name,
        )
        build_features(data, extractor, progress, compute=chunks)


class _Chunks:
    """Computes chunks ahead of the builder, which asks for one after the other.

    Args:
        ray: The package, connected.
        submit: Begins a task for rows start to stop.
        rows: Rows of the store.
        ahead: Tasks at a time.
        store: The name that each node must give to the store.
    """

    def __init__(
        self, ray: Any, submit: Callable[[int, int], Any], *, rows: int, ahead: int, store: str
    ) -> None:
        self._ray, self._submit = ray, submit
        self._rows, self._ahead, self._store = rows, ahead, store
        self._pending: dict[int, Any] = {}
        self._next = -1

    def __call__(self, start: int, stop: int) -> Any:
        """Return the features (stop - start, D) of rows start to stop.

        Raises:
            ValueError: If a node has other data or another reference.
            ConnectionError: If the task's workers died.
        """
        self._keep_busy(start, stop - start)
        store, features = self._result(self._pending.pop(start), start, stop)
        if store != self._store:
            raise ValueError(
                f"a node of the Ray cluster would build the store {store}, this process "
                f"{self._store}: its data or its reference are others; give every node the same"
            )
        return features

    def _keep_busy(self, start: int, size: int) -> None:
        begin = max(start, self._next)
        while begin < self._rows and len(self._pending) < self._ahead:
            end = min(begin + size, self._rows)
            self._pending[begin] = self._submit(begin, end)
            begin = end
        self._next = begin

    def _result(self, reference: Any, start: int, stop: int) -> tuple[str, Any]:
        where = f"features of rows {start} to {stop - 1} on the Ray cluster"
        try:
            result: tuple[str, Any] = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise ValueError(f"{where}: {type(cause).__name__}: {cause}") from None
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise ConnectionError(
                f"{where}: their task died {RETRIES + 1} times ({type(error).__name__}: {reason}); "
                "the same command goes on at these rows"
            ) from None
        return result


def _features_of(config: RunConfig, start: int, stop: int, basis: Any) -> tuple[str, Any]:
    """On a node: return the name of a configuration's store, and the features of its rows.

    The name holds the digests of data and reference: those that this node has.
    """
    data = load_dataset(EnvOptions(**config.env_options(), observe=()))
    extractor = Extractor(
        _loaded_reference(config.reference, max(data.image_shape[1:]), config.device),
        parse_compression(config.compress),
    )
    store = reference_store_path(data, extractor)[0].name
    return store, chunk_features(data, extractor, basis)(start, stop)


@functools.lru_cache(maxsize=1)
def _loaded_reference(name: str, side: int, device: str) -> Reference:
    return make_reference(name, image_side=side, device=resolve_device(device))
