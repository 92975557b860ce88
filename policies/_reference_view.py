"""What the frozen reference says of a drawn batch, for a loop without the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.prepare import LOSSES_NAME
from gstds.store import FeatureStore, open_losses
from gstds.views import spectral_view

__all__ = ["ReferenceView"]


_FEATURES = {"spectral_scores", "features", "degrees"}

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class ReferenceView:
    """Features and reference losses of the training samples, as far as a policy needs them.

    Args:
        needs: Optional observations of the policy, name -> options.
        store: The features, or their folder, or None.
        losses: Reference losses (n,), or their file, or None for ``losses.safetensors`` in the
            store's folder.
        rows: Row of the store (n,) for each sample; None for the sample's own index.
        policy: The policy's name, for messages.

    Raises:
        ValueError: If the policy needs what is not given; the message says what to pass.
        StoreError: If the store or the file of losses is missing or damaged.
    """

    def __init__(
        self,
        needs: Mapping[str, Mapping[str, Any]],
        store: FeatureStore | str | Path | None,
        losses: npt.ArrayLike | str | Path | None,
        rows: npt.ArrayLike | None,
        policy: str,
    ) -> None:
        self._needs = needs
        if isinstance(store, str | Path):
            store = FeatureStore.open(store)
        self.store = store
        self._rows = None if rows is None else np.asarray(rows, dtype=np.int64)
        self._note: dict[str, Any] = {}
        needed = sorted(_FEATURES & set(needs))
        if needed and store is None:
            raise ValueError(
                f"store: policy {policy!r} needs {', '.join(needed)}, and store is None; "
                "pass a FeatureStore or its folder (make one with gstds.prepare.prepare_store)"
            )
        self.losses = self._find_losses(losses, policy) if "reference_losses" in needs else None

    def _find_losses(self, losses: Any, policy: str) -> Floats:
        if losses is None and self.store is None:
            raise ValueError(
                f"reference_losses: policy {policy!r} needs them; pass a store that holds them "
                "(gstds.prepare.prepare_store), or reference_losses=, one for each sample"
            )
        if losses is None and self.store is not None:
            losses = self.store.path / LOSSES_NAME
        if isinstance(losses, str | Path):
            losses, self._note = open_losses(losses)
        values = np.asarray(losses, dtype=np.float32)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"reference_losses must be finite (n,), got shape {values.shape}")
        return values

    @property
    def samples(self) -> int | None:
        """Number of samples, None if nothing here says it."""
        if self._rows is not None:
            return len(self._rows)
        if self.losses is not None:
            return len(self.losses)
        return self.store.rows if self.store is not None else None

    @property
    def classes(self) -> int | None:
        """Number of classes, None if nothing here says it."""
        classes = self._note.get("num_classes")
        return None if classes is None else int(classes)

    @property
    def dim(self) -> int | None:
        """Width of the features, None without a store."""
        return None if self.store is None else self.store.dim

    def view(self, batch: Indices) -> tuple[dict[str, Any], float]:
        """Return the reference's observations of a batch (n,), and the operations they take."""
        raw: dict[str, Any] = {}
        flops = 0.0
        if self.store is not None and _FEATURES & set(self._needs):
            rows = batch if self._rows is None else self._rows[batch]
            raw, flops = spectral_view(self.store.gather(rows), self._needs)
        if self.losses is not None:
            raw = raw | {"reference_losses": self.losses[batch]}
        return raw, flops
