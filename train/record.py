"""What a run leaves behind: its curve, its keep sequence, and which samples were kept."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.files import write_bytes

__all__ = ["KeptRecord", "coverage"]


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


@dataclass
class KeptRecord:
    """One bit per drawn sample, one row per step; and the counts that the tables need.

    Args:
        batch_size: N.
        labels: Training labels (n,).
        classes: Number of classes.
    """

    batch_size: int
    labels: npt.NDArray[np.int64]
    classes: int
    bits: bytearray = field(default_factory=bytearray)
    drawn: int = 0
    kept: int = 0
    since: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        """Begin the class counts."""
        self.since = np.zeros(self.classes, dtype=np.int64)

    def add(self, info: Mapping[str, Any], weights: npt.NDArray[np.float32]) -> None:
        """Take up a step."""
        drawn = int(info["drawn"])
        mask = np.zeros(self.batch_size, dtype=bool)
        mask[:drawn] = weights[:drawn] > 0
        self.bits += np.packbits(mask).tobytes()
        self.drawn += drawn
        self.kept += int(info["kept"])
        chosen = np.asarray(info["indices"])[mask]
        self.since += np.bincount(self.labels[chosen], minlength=self.classes)

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
        counts: npt.NDArray[np.int64] = np.unpackbits(self.masks(), axis=1).sum(1, dtype=np.int64)
        return counts

    def save(self, path: Any, *, visits: npt.NDArray[np.int64], order_seed: int) -> None:
        """Write a compressed ``.npz``: packed ``kept``, ``visits`` (n,), and what decodes them."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            kept=self.masks(),
            visits=visits.astype(np.int32),
            batch_size=np.int64(self.batch_size),
            order_seed=np.uint64(order_seed),
        )
        write_bytes(path, buffer.getvalue())

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as arrays and JSON-able values."""
        return {
            "bits": np.frombuffer(bytes(self.bits), dtype=np.uint8).copy(),
            "drawn": self.drawn,
            "kept": self.kept,
            "since": self.since.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.bits = bytearray(np.asarray(state["bits"], dtype=np.uint8).tobytes())
        self.drawn, self.kept = int(state["drawn"]), int(state["kept"])
        self.since = np.array(state["since"], dtype=np.int64)
