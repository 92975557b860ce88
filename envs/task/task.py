"""What does not change while a learner trains: data, cached features, reference losses."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import cache_root
from gstds.envs.data.datasets import Data, check_files, load_data
from gstds.envs.task.features import (
    Extractor,
    build_features,
    digest_of,
    make_extractor,
    reference_store_path,
)
from gstds.envs.task.options import EnvOptions
from gstds.observation.spec import asked_of
from gstds.options.fields import select
from gstds.options.world import DataOptions
from gstds.reference.probe import ProbeResult, cross_fitted_losses
from gstds.store.feature_store import FeatureStore, open_losses, save_losses

__all__ = [
    "ReferenceData",
    "Task",
    "load_dataset",
    "load_task",
    "probe_fingerprint",
    "reference_store_path",
]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ReferenceData:
    """What the frozen reference says of each training sample.

    Attributes:
        store: The features on disk.
        rows: Row of the store (n,) for each training sample; duplicates share one.
        losses: Cross-fitted reference losses (n,) in nats.
        accuracy: The probe's accuracy on samples it was not fitted to.
        features_flops: Operations that the features cost, or cost when they were made.
        probe_flops: Operations of the probe.
        seconds: Seconds spent here by phase; near 0 when everything was cached.
        identity: Backbone, input size, digest of the weights.
        logits: What the probe says of each class (n, C), out of fold; None unless asked for.
    """

    store: FeatureStore
    rows: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float32]
    accuracy: float
    features_flops: float
    probe_flops: float
    identity: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    logits: npt.NDArray[np.float32] | None = None

    def features(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return unit rows (k, D) for training samples (k,)."""
        return np.asarray(self.store.gather(self.rows[indices]), dtype=np.float32)


@dataclass(frozen=True)
class Task:
    """Data, and the reference's view of it where something asks for one."""

    data: Data
    reference: ReferenceData | None


def load_task(options: EnvOptions, progress: Progress | None = None) -> Task:
    """Load the data and, where something asks for it, the reference; shared within a process.

    Raises:
        ValueError: If the data or the reference are unknown, damaged, or do not fit together.
        OSError: If a file cannot be read or written.
    """
    data = load_dataset(options)
    check_files(data, progress)
    teaches = options.distill > 0
    if not asked_of(options.observe, "features", "reference") and not teaches:
        return Task(data, None)
    reference = load_reference(
        data,
        options.reference,
        options.device,
        progress,
        with_logits=teaches,
        compress=options.compress,
    )
    return Task(data, reference)


def load_dataset(options: EnvOptions) -> Data:
    """Load the data alone, without looking at every file; shared within a process.

    Raises:
        ValueError: If the data are unknown or damaged.
        OSError: If a file cannot be read.
    """
    return _load_data(select(options, DataOptions))


@functools.lru_cache(maxsize=4)
def _load_data(options: DataOptions) -> Data:
    return load_data(options.dataset, **{k: v for k, v in vars(options).items() if k != "dataset"})


held_references: dict[str, ReferenceData] = {}
"""What this process has loaded, by digest of data and reference."""


def probe_fingerprint(data: Data, reference: Extractor) -> str:
    """Return the name under which the cache keeps what the probe says of the training samples."""
    train = data.train
    return digest_of(
        train.source.fingerprint, train.rows, train.labels, train.groups, reference.identity
    )


def load_reference(
    data: Data,
    name: str,
    device: str,
    progress: Progress | None = None,
    *,
    with_logits: bool = False,
    compress: str | None = None,
) -> ReferenceData:
    """Return the reference's features and losses of the training samples, from the cache if there.

    With ``with_logits`` the probe's logits too; with ``compress`` of shortened features.

    Raises:
        ValueError: If the reference is unknown, or a cached store is damaged.
        OSError: If the cache cannot be written.
    """
    key = digest_of(data.fingerprint, name, with_logits, compress)
    if key not in held_references:
        held_references[key] = _build_reference(data, name, device, progress, with_logits, compress)
    return held_references[key]


def _build_reference(
    data: Data,
    name: str,
    device: str,
    progress: Progress | None,
    with_logits: bool,
    compress: str | None,
) -> ReferenceData:
    from gstds.envs.learner.learner import resolve_device

    reference = make_extractor(data, name, compress, resolve_device(device))
    start = time.perf_counter()
    store, rows = build_features(data, reference, progress)
    middle = time.perf_counter()
    probe = _Probe(data, reference, store, rows, progress)
    losses, note = probe.losses()
    logits = probe.logits() if with_logits else None
    return ReferenceData(
        store=store,
        rows=rows,
        losses=losses,
        accuracy=float(note["accuracy"]),
        features_flops=reference.flops(store.rows),
        probe_flops=float(note["flops"]),
        identity=dict(reference.identity),
        seconds={"features": middle - start, "probe": time.perf_counter() - middle},
        logits=logits,
    )


class _Probe:
    """The cross-fitted probe on the training samples: read from the cache, or fitted."""

    def __init__(
        self,
        data: Data,
        reference: Extractor,
        store: FeatureStore,
        rows: npt.NDArray[np.int64],
        progress: Progress | None,
    ) -> None:
        self._data, self._store, self._rows, self._progress = data, store, rows, progress
        self._backbone = dict(reference.identity)
        self._fingerprint = probe_fingerprint(data, reference)

    def losses(self) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Return the reference losses (n,) in nats, and how they were made."""
        path = self._path("losses")
        if path.exists():
            return open_losses(path, expected={"fingerprint": self._fingerprint})
        result = self._fit(with_logits=False)
        save_losses(path, result.losses, self._note(result))
        return result.losses, self._note(result)

    def logits(self) -> npt.NDArray[np.float32]:
        """Return what the probe says of each sample's classes (n, C), out of fold."""
        path = self._path("logits")
        if path.exists():
            return open_losses(path, expected={"fingerprint": self._fingerprint}, kind="logits")[0]
        result = self._fit(with_logits=True)
        assert result.logits is not None  # noqa: S101  (asked for)
        save_losses(path, result.logits, self._note(result), kind="logits")
        return result.logits

    def _path(self, kind: str) -> Path:
        return cache_root() / kind / f"{self._fingerprint}.safetensors"

    def _note(self, result: ProbeResult) -> dict[str, Any]:
        return {
            "fingerprint": self._fingerprint,
            "accuracy": result.accuracy,
            "flops": result.flops,
            "folds": result.folds,
            "backbone": self._backbone,
        }

    def _fit(self, *, with_logits: bool) -> ProbeResult:
        if self._progress:
            self._progress("reference probe", 0, 1)
        train = self._data.train
        result = cross_fitted_losses(
            self._store.gather(self._rows),
            train.labels,
            train.groups,
            num_classes=self._data.num_classes,
            with_logits=with_logits,
        )
        if self._progress:
            self._progress("reference probe", 1, 1)
        return result
