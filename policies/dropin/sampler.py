"""Selection before loading, for a DataLoader: what is dropped is never read, in no worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils import data

from gstds.common.checks import check_integer
from gstds.observation.spec import asked_of
from gstds.policies.dropin.selector import Selector

_NO_BATCH = (
    "batches must be lists of indices, got {}; pass "
    "torch.utils.data.BatchSampler(sampler, batch_size, drop_last)"
)
_OF_INDICES: tuple[type, ...] = (
    data.RandomSampler,
    data.SequentialSampler,
    data.SubsetRandomSampler,
)
_OF_INDICES += (data.WeightedRandomSampler, data.DistributedSampler)


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
        """Return the sample's own parts, then its index and its weight.

        Raises:
            TypeError: If it is asked for an index alone, as an ordinary sampler does.
        """
        if not isinstance(key, tuple | list) or len(key) != 2:
            raise TypeError(
                f"an IndexedDataset is asked for (index, weight), got {key!r}; give its DataLoader "
                "batch_sampler=SelectionSampler(selector, batches), and no other sampler"
            )
        index, weight = key
        sample = self.dataset[index]
        parts = tuple(sample) if isinstance(sample, tuple | list) else (sample,)
        return (*parts, index, np.float32(weight))


class SelectionSampler:
    """The ``batch_sampler`` of a DataLoader: draws batches, and yields what is kept of each.

    Batches are selected ahead of training by as many as the loader prefetches. So the policy must
    look neither at the learner nor at what training made of the batches before: what it saw would
    depend on the number of workers. Which batches come does not.

    Where several processes train together and this one keeps nothing of a batch, it yields a single
    sample of weight 0: the others would wait for its gradient.

    Args:
        selector: Selects; its losses need not be told.
        batches: The drawn batches of an epoch, as lists of indices: a ``BatchSampler``, for one.

    Raises:
        TypeError: If an argument has the wrong type, or the batches could be drawn only once.
        ValueError: If the policy needs to look at the learner, or learns while training goes on.
    """

    def __init__(self, selector: Selector, batches: Iterable[Sequence[int]]) -> None:
        if not isinstance(selector, Selector):
            raise TypeError(f"selector must be a gstds.Selector, got {selector!r}")
        _refuse_what_is_known_later(selector)
        _check_batches(batches)
        selector.ahead = True
        self.selector, self.batches = selector, batches
        self._start = 0

    def start_at(self, batch: int) -> None:
        """Let the next epoch begin at a drawn batch: where a stopped run had got to.

        The batches before it are selected again, so that all that follows is as it would have been,
        but they are not yielded. Load the selector's state of the epoch's beginning first.
        """
        self._start = check_integer("batch", batch)

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """Yield the (index, weight) pairs of each batch of which something is kept.

        Raises:
            TypeError: If a drawn batch is no list of indices.
        """
        start, self._start = self._start, 0
        for at, drawn in enumerate(self.batches):
            if np.ndim(drawn) == 0:
                raise TypeError(_NO_BATCH.format(f"{drawn!r} as batch {at}"))
            indices = [int(index) for index in drawn]
            kept, weights = self.selector.select(np.asarray(indices, dtype=np.int64))
            pairs = zip(kept.tolist(), weights.tolist(), strict=True)
            chosen = [(indices[i], float(weight)) for i, weight in pairs]
            if not chosen and self.selector.kept_elsewhere:
                chosen = [(indices[0], 0.0)]
            if chosen and at >= start:
                yield chosen

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]  # a BatchSampler has a length


def _refuse_what_is_known_later(selector: Selector) -> None:
    needs = selector.policy.needs
    ahead = "at a batch selected ahead of training would depend on the number of workers"
    late = {"are not known before the images are loaded": asked_of(needs, "learner")}
    late[ahead] = asked_of(needs, "evaluation", "gradients")
    reasons = [f"needs {', '.join(names)}, which {why}" for why, names in late.items() if names]
    if selector.learns:
        reasons.append("learns from each step, and batches are selected ahead of training")
    if reasons:
        raise ValueError(
            f"selector: policy {selector.name!r} {reasons[0]}; call selector.select inside the "
            "loop instead"
        )


def _check_batches(batches: Any) -> None:
    """Refuse what is no collection of batches, as far as it can be told without drawing one."""
    if not isinstance(batches, Iterable):
        raise TypeError(_NO_BATCH.format(repr(batches)))
    if isinstance(batches, Iterator):
        raise TypeError(
            f"batches must begin anew in each epoch, got a {type(batches).__name__}, which can be "
            "gone through once; pass a list, or a torch.utils.data.BatchSampler"
        )
    first = batches[0] if isinstance(batches, Sequence) and len(batches) else ()
    if np.ndim(first) == 0 or isinstance(batches, _OF_INDICES):
        raise TypeError(_NO_BATCH.format(f"{type(batches).__name__} of single indices"))
