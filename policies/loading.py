"""Selection before loading, for a DataLoader: what is dropped is never read, in no worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gstds.validation import check_integer
from policies.selector import LEARNER_VIEWS, Selector

__all__ = ["IndexedDataset", "SelectionSampler"]

Kept = list[tuple[int, float]]


class IndexedDataset:
    """A data set that is asked for (index, weight) and answers with both beside the sample.

    Args:
        dataset: Anything with ``__getitem__`` and ``__len__``; a tuple, or a single thing, each.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, float]) -> tuple[Any, ...]:
        """Return the sample's own parts, then its index and its weight."""
        index, weight = key
        sample = self.dataset[index]
        parts = tuple(sample) if isinstance(sample, tuple | list) else (sample,)
        return (*parts, index, np.float32(weight))


class SelectionSampler:
    """The ``batch_sampler`` of a DataLoader: draws batches, and yields what is kept of each.

    Batches are selected ahead of training by as many as the loader prefetches. So the policy must
    not look at the learner, and one that reads stale losses is refused: what it saw would depend on
    the number of workers. Which batches come does not.

    Args:
        selector: Selects; its losses need not be told.
        batches: The drawn batches of an epoch, as lists of indices: a ``BatchSampler``, for one.

    Raises:
        ValueError: If the policy needs to look at the learner.
    """

    def __init__(self, selector: Selector, batches: Iterable[Sequence[int]]) -> None:
        needed = [name for name in LEARNER_VIEWS if name in selector.policy.needs]
        if needed:
            raise ValueError(
                f"selector: policy {selector.name!r} needs {', '.join(needed)}, which are not "
                "known before the images are loaded; call selector.select inside the loop instead"
            )
        selector.ahead = True
        self.selector, self.batches = selector, batches
        self._start = 0

    def start_at(self, batch: int) -> None:
        """Let the next epoch begin at a drawn batch: where a stopped run had got to.

        The batches before it are selected again, so that all that follows is as it would have been,
        but they are not yielded. Load the selector's state of the epoch's beginning first.
        """
        self._start = check_integer("batch", batch)

    def __iter__(self) -> Iterator[Kept]:
        """Yield the (index, weight) pairs of each batch of which something is kept."""
        start, self._start = self._start, 0
        for at, indices in enumerate(self.batches):
            kept, weights = self.selector.select(np.asarray(list(indices), dtype=np.int64))
            if at >= start and len(kept):
                yield [
                    (int(indices[i]), float(w))
                    for i, w in zip(kept.tolist(), weights.tolist(), strict=True)
                ]

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]  # a BatchSampler has a length
