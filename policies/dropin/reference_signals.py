"""What the frozen reference says of a drawn batch, for a loop without the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_integer
from gstds.observation.batch_view import spectral_view
from gstds.observation.spec import asked_of
from gstds.policies.dropin.arguments import (
    agreed_classes,
    agreed_samples,
    checked_store,
    checked_whole,
)
from gstds.policies.dropin.observed import floats
from gstds.store.feature_store import FeatureStore, open_losses
from gstds.store.from_images import LOSSES_NAME

__all__ = ["ReferenceView"]

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class ReferenceView:
    """Features and reference losses of the training samples, as far as a policy needs them.

    Args:
        needs: Optional observations of the policy, name -> options.
        store: The features, or their folder, or None.
        losses: Reference losses (n,), one for each sample; or their file, one for each row of the
            store; None for ``losses.safetensors`` in the store's folder.
        rows: Row of the store (n,) for each sample; None for the sample's own index.
        policy: The policy's name, for messages.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the policy needs what is not given, or the rows are not in the store; the
            message says what to pass.
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
        self.store = checked_store(store)
        self._rows = None if rows is None else checked_whole("rows", rows)
        if self._rows is not None and self.store is not None:
            self._check_rows(self.store.rows, f"the store {self.store.path}")
        self._note: dict[str, Any] = {}
        self._given: int | None = None
        self._from_file: int | None = None
        self._features = sorted(asked_of(needs, "features"))
        if self._features and store is None:
            raise ValueError(
                f"store: policy {policy!r} needs {', '.join(self._features)}, and store is None; "
                "pass a FeatureStore or its folder (make one with gstds.prepare_store)"
            )
        self.losses = self._find_losses(losses, policy) if "reference_losses" in needs else None

    def _check_rows(self, count: int, where: str) -> None:
        if self._rows is not None and self._rows.max() >= count:
            raise ValueError(
                f"rows must lie in [0, {count - 1}], got {self._rows.max()}: {where} has no more"
            )

    def _find_losses(self, losses: Any, policy: str) -> Floats:
        if losses is None and self.store is None:
            raise ValueError(
                f"reference_losses: policy {policy!r} needs them; pass a store that holds them "
                "(gstds.prepare_store), or reference_losses=, one for each sample"
            )
        if losses is None and self.store is not None:
            losses = self.store.path / LOSSES_NAME
        if isinstance(losses, str | Path):
            return self._read_losses(losses)
        values = floats("reference_losses", losses)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"reference_losses must be finite (n,), got shape {values.shape}")
        self._given = len(values)
        return values

    def _read_losses(self, path: str | Path) -> Floats:
        """Return the losses of a file: of each sample, if the rows of the samples are known."""
        values, self._note = open_losses(path)
        if self._rows is None:
            self._from_file = len(values)
            return values
        self._check_rows(len(values), str(path))
        return values[self._rows]

    def sizes(
        self, samples: int | None, classes: int | None, labels: Indices | None
    ) -> tuple[int, int]:
        """Return the numbers of training samples and of classes, on which all that is given agrees.

        Args:
            samples: The number that was given, or None.
            classes: The number that was given, or None.
            labels: Class (n,) of each sample, or None.

        Raises:
            ValueError: If nothing says a number, or two things disagree.
            StoreError: If the store's file of losses is damaged.
        """
        exact: dict[str, int | None] = {
            "num_samples": None
            if samples is None
            else check_integer("num_samples", samples, low=1),
            "labels": None if labels is None else len(labels),
            "reference_losses": self._given,
            "rows": None if self._rows is None else len(self._rows),
        }
        rows = None if self.store is None or self._rows is not None else self.store.rows
        exact |= {"the file of losses": self._from_file, "store": rows}
        noted = self._noted_classes() if classes is None and labels is None else None
        return agreed_samples(exact), agreed_classes(classes, labels, noted)

    def _noted_classes(self) -> int | None:
        """Return what the store's losses say, though nothing else of them may be needed."""
        if not self._note and self.store is not None:
            path = self.store.path / LOSSES_NAME
            self._note = open_losses(path)[1] if path.is_file() else {}
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
        if self.store is not None and self._features:
            rows = batch if self._rows is None else self._rows[batch]
            raw, flops = spectral_view(self.store.gather(rows), self._needs)
        if self.losses is not None:
            raw = raw | {"reference_losses": self.losses[batch]}
        return raw, flops
