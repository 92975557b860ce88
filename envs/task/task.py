"""What does not change while a learner trains: data, cached features, what the reference says."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from gstds.common.files import cache_root
from gstds.envs.data.datasets import Data, check_files, load_data
from gstds.envs.learner.learner import resolve_device
from gstds.envs.task.features import Extractor, build_features, digest_of, make_extractor
from gstds.envs.task.options import EnvOptions
from gstds.observation.spec import asked_of
from gstds.options.fields import select
from gstds.options.world import DataOptions
from gstds.reference.probe import cross_fitted_losses
from gstds.store.feature_store import FeatureStore, open_losses, save_losses

Progress = Callable[[str, int, int], None]
Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


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
    rows: Indices
    losses: Array
    accuracy: float
    features_flops: float
    probe_flops: float
    identity: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    logits: Array | None = None

    def features(self, indices: Indices) -> Array:
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
    wanted = needs_reference(options)
    return Task(data, load_reference(data, options, progress) if wanted else None)


def needs_reference(options: EnvOptions) -> bool:
    """Say whether what is observed, or the loss, needs the reference."""
    return options.distill > 0 or bool(asked_of(options.observe, "features", "reference"))


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
    data: Data, options: EnvOptions, progress: Progress | None = None
) -> ReferenceData:
    """Return the reference's features and losses of the training samples, from the cache if there.

    Where they are distilled, the probe's logits too.

    Raises:
        ValueError: If the reference is unknown, or a cached store is damaged.
        OSError: If the cache cannot be written.
    """
    name, compress, teaches = options.reference, options.compress, options.distill > 0
    key = digest_of(data.fingerprint, name, teaches, compress)
    if key in held_references:
        return held_references[key]
    reference = make_extractor(data, name, compress, resolve_device(options.device))
    start = time.perf_counter()
    store, rows = build_features(data, reference, progress)
    middle = time.perf_counter()
    fingerprint = probe_fingerprint(data, reference)
    report = progress or (lambda phase, done, total: None)

    def said(kind: str) -> tuple[Array, dict[str, Any]]:
        """Return the cross-fitted probe's losses (n,) or logits (n, C), and what made them."""
        path = cache_root() / kind / f"{fingerprint}.safetensors"
        if path.exists():
            return open_losses(path, expected={"fingerprint": fingerprint}, kind=kind)
        report("reference probe", 0, 1)
        of = store.gather(rows), data.train.labels, data.train.groups
        how: dict[str, Any] = {"num_classes": data.num_classes, "with_logits": kind == "logits"}
        result = cross_fitted_losses(*of, **how)
        report("reference probe", 1, 1)
        note = {"fingerprint": fingerprint, "accuracy": result.accuracy, "flops": result.flops}
        note |= {"folds": result.folds, "backbone": dict(reference.identity)}
        save_losses(path, getattr(result, kind), note, kind=kind)
        return getattr(result, kind), note

    losses, note = said("losses")
    held_references[key] = ReferenceData(
        store=store,
        rows=rows,
        losses=losses,
        accuracy=float(note["accuracy"]),
        features_flops=reference.flops(store.rows),
        probe_flops=float(note["flops"]),
        identity=dict(reference.identity),
        logits=said("logits")[0] if teaches else None,
        seconds={"features": middle - start, "probe": time.perf_counter() - middle},
    )
    return held_references[key]


def make_teacher(
    options: EnvOptions, reference: ReferenceData | None, device: torch.device
) -> Callable[[Indices, torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """Return what is minimized where the reference's cross-fitted logits are a second target.

    A sample's objective is (1 - share) · cross-entropy + share · T² · KL(reference ‖ learner), with
    both distributions at temperature T. Source: Hinton, Vinyals and Dean, arXiv 1503.02531.

    Returns:
        A function of the training samples (k,), cross-entropy (k,) and the learner's logits (k, C);
        None if the options ask for no distillation.
    """
    if options.distill == 0.0:
        return None
    assert reference is not None  # noqa: S101  (`load_task` has loaded it, with its logits)
    taught = torch.as_tensor(reference.logits, device=device)
    share, temperature = options.distill, options.distill_temperature

    def objective(indices: Indices, losses: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        rows = torch.as_tensor(indices, device=taught.device)
        target = F.log_softmax(taught[rows] / temperature, dim=1)
        said = F.log_softmax(logits / temperature, dim=1)
        apart = F.kl_div(said, target, reduction="none", log_target=True).sum(dim=1)
        return (1.0 - share) * losses + share * temperature**2 * apart

    return objective
