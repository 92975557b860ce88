"""Which samples of which batches a run kept: one bit each, and what the tables count of them."""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import write_bytes
from gstds.common.npz import read_arrays
from gstds.common.state import Stateful

_TENTHS = 10
_KEYS = ("kept", "progress", "visits", "batch_size", "order_seed", "weights")


def coverage(counts: npt.NDArray[np.int64]) -> float:
    """Return the effective share of classes among kept samples, in (0, 1]: exp(entropy) / C.

    Args:
        counts: Kept samples by class (C,).
    """
    total = counts.sum()
    if total == 0:
        return 0.0
    shares = counts[counts > 0] / total
    return float(math.exp(-(shares * np.log(shares)).sum()) / len(counts))


class KeptRecord(Stateful):
    """One bit per drawn sample, one row per step; and the counts that the tables need.

    Args:
        batch_size: N.
        labels: Training labels (n,).
        classes: Number of classes.
    """

    state = ("bits", "weights", "drawn", "kept", "since", "progress", "seconds")

    def __init__(self, batch_size: int, labels: npt.NDArray[np.int64], classes: int) -> None:
        self.batch_size, self.labels = batch_size, labels
        self.bits, self.weights = bytearray(), bytearray()  # the kept ones' weights, in 16 bits
        self.drawn = self.kept = 0
        self.since = np.zeros(classes, dtype=np.int64)  # kept by class, since the last look
        self.progress, self.seconds = array("d"), array("d")  # after each step; of each step

    def add(self, info: Mapping[str, Any], weights: npt.NDArray[np.float32]) -> None:
        """Take up a step."""
        drawn = int(info["drawn"])
        mask = np.zeros(self.batch_size, dtype=bool)
        mask[:drawn] = weights[:drawn] > 0
        self.bits += np.packbits(mask).tobytes()
        self.weights += np.asarray(weights)[mask].astype(np.float16).tobytes()
        self.progress.append(float(info["progress"]))
        self.drawn += drawn
        self.kept += int(info["kept"])
        chosen = np.asarray(info["indices"])[mask]
        self.since += np.bincount(self.labels[chosen], minlength=len(self.since))

    def take_coverage(self) -> float:
        """Return the class coverage since the last call."""
        value = coverage(self.since)
        self.since[:] = 0
        return value

    @property
    def mean_keep(self) -> float:
        """Kept over drawn, over all steps so far."""
        return self.kept / self.drawn if self.drawn else 0.0

    def masks(self) -> npt.NDArray[np.uint8]:
        """Return the packed bits (steps, ceil(N / 8)); `numpy.unpackbits` opens them."""
        width = -(-self.batch_size // 8)
        return np.frombuffer(bytes(self.bits), dtype=np.uint8).reshape(-1, width)

    def keep_sequence(self) -> npt.NDArray[np.int64]:
        """Return how many samples each step kept (steps,)."""
        return np.asarray(np.unpackbits(self.masks(), axis=1).sum(axis=1), dtype=np.int64)

    def save(self, path: Any, *, visits: npt.NDArray[np.int64], order_seed: int) -> None:
        """Write a compressed ``.npz``, which `read_kept` reads.

        It holds ``kept`` (steps, ceil(N / 8)), packed; ``progress`` (steps,) after each step;
        ``visits`` (n,); ``weights`` (K,) of the kept, float16; and the batch size and the seed of
        the order, which decode them.
        """
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            kept=self.masks(),
            progress=np.array(self.progress, dtype=np.float64),
            visits=visits.astype(np.int32),
            weights=np.frombuffer(bytes(self.weights), dtype=np.float16),
            batch_size=np.int64(self.batch_size),
            order_seed=np.uint64(order_seed),
        )
        write_bytes(path, buffer.getvalue())


@dataclass(frozen=True)
class Kept:
    """Which samples of which batches a finished run kept.

    Attributes:
        masks: Kept or not, by step and position in the drawn batch (T, N).
        progress: Share of the run done after each step (T,); None in records of older versions.
        visits: How often each training sample was trained on (n,).
        order_seed: Seed of the order of the batches.
        weights: The loss weights of the kept (K,), step by step; None in records of older versions.
    """

    masks: npt.NDArray[np.bool_]
    progress: npt.NDArray[np.float64] | None
    visits: npt.NDArray[np.int64]
    order_seed: int
    weights: npt.NDArray[np.float16] | None = None

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Samples that each step kept (T,)."""
        return np.asarray(self.masks.sum(axis=1), dtype=np.int64)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Samples that each step drew (T,): N, or the rest at the end of an epoch."""
        steps, batch = self.masks.shape
        in_epoch = np.arange(steps) % -(-len(self.visits) // batch)
        return np.asarray(np.minimum(batch, len(self.visits) - in_epoch * batch), dtype=np.int64)


def read_kept(path: str | Path) -> Kept:
    """Read what `KeptRecord.save` wrote.

    Raises:
        OSError: If the file is missing or damaged.
    """
    try:
        file = read_arrays(path, _KEYS)
        batch = int(file["batch_size"])
        masks = np.unpackbits(file["kept"], axis=1, count=batch).astype(bool)
        visits = file["visits"].astype(np.int64)
        seed = int(file["order_seed"])
        return Kept(masks, file.get("progress"), visits, seed, file.get("weights"))
    except (KeyError, ValueError, TypeError) as error:
        raise OSError(f"{str(path)!r} is damaged: {error}") from error


def reference_system_seconds(
    seconds: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> float | None:
    """Return steps × median step time, the medians taken among steps of like size.

    The median leaves out what disturbed single steps. A schedule's steps differ in size, so one
    median of all would stand for none of them: the steps are sorted by what they kept, and every
    tenth of them has its own (after Kaddour et al., No Train No Gain, arXiv 2307.06440).

    Args:
        seconds: Duration of each step (T,).
        counts: Samples that each step kept (T,).

    Returns:
        Seconds of the whole run; None without a step.
    """
    order = np.argsort(counts, kind="stable")
    groups = [g for g in np.array_split(seconds[order], _TENTHS) if len(g)]
    return float(sum(len(group) * np.median(group) for group in groups)) if groups else None
