"""Selection before loading, for a DataLoader: what is dropped is never read, in no worker."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils import data

from gstds.common.checks import check_integer, require_entries
from gstds.observation.spec import asked_of
from gstds.policies.dropin.arguments import plain
from gstds.policies.dropin.selector import Selector

_NO_BATCH = (
    "batches must be lists of indices, got {}; pass "
    "torch.utils.data.BatchSampler(sampler, batch_size, drop_last)"
)
_NO_GENERATOR = (
    "batches: what a {} without a generator draws cannot be drawn again; give it "
    "generator=torch.Generator().manual_seed(0)"
)
_INJECTED = (
    "sampler: a {} does not draw what the batches' own {} does, and Lightning would put it in its "
    "place; pass Trainer(use_distributed_sampler=False), and batches drawn by a "
    "DistributedSampler. To evaluate or predict, use a loader without selection"
)
_ANOTHER_ORDER = (
    "batches: the {} batches drawn again are not those that were drawn before the state was saved; "
    "draw by a sampler that has set_epoch, or a generator of its own, with the same seed"
)
_OF_ALL = (data.RandomSampler, data.SequentialSampler)
_OF_INDICES: tuple[type, ...] = (*_OF_ALL, data.SubsetRandomSampler)
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

    For the same reason the selector's own state is, while an epoch lasts, that of its beginning:
    whoever skips the batches that were trained on (`start_at`, the state of this sampler in
    torchdata's ``StatefulDataLoader``, accelerate's ``skip_first_batches``) has them selected
    again, once. ``sampler``, ``batch_size``, ``drop_last`` and `set_epoch` are those of the
    batches, where frameworks look for them.

    Where several processes train together and this one keeps nothing of a batch, it yields a single
    sample of weight 0: the others would wait for its gradient.

    Args:
        selector: Selects; its losses need not be told.
        batches: The drawn batches of an epoch, as lists of indices: a ``BatchSampler``, for one.
            Of ids, if the selector has some and these are no whole numbers, which are positions.
        sampler: A ``DistributedSampler`` that takes the place of the batches' own, which draws
            all samples; Lightning gives it. One that the batches have already stays.

    Raises:
        TypeError: If an argument has the wrong type, or the batches could be drawn only once.
        ValueError: If the policy needs to look at the learner, or learns while training goes on; or
            the sampler would draw other samples than the batches' own.
    """

    def __init__(self, selector: Selector, batches: Any, *, sampler: Any = None) -> None:
        if not isinstance(selector, Selector):
            raise TypeError(f"selector must be a gstds.Selector, got {selector!r}")
        _refuse_what_is_known_later(selector)
        _check_batches(batches)
        selector.ahead = True
        self.selector, self.batches = selector, _drawn_by(sampler, batches)
        made_with = {"selector": selector, "batches": batches, "sampler": None}
        noted = {"args": (), "kwargs": made_with, "arg_names": (), "default_kwargs": {}}
        for name, value in noted.items():  # by which Lightning makes it anew, with its own sampler
            setattr(self, f"__pl_saved_{name}", value)
        self._start = self._drawn = self._digest = 0
        self._expected: int | None = None
        self._epoch: int | None = None
        self._beginning: dict[str, Any] | None = None
        self._passed: dict[str, Any] | None = None

    @property
    def sampler(self) -> Any:
        """What draws the single indices of the batches."""
        return self.batches.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self.batches.sampler = sampler

    @property
    def batch_size(self) -> int | None:
        """Samples of a drawn batch; fewer are yielded.

        None where several processes train: accelerate would leave out what is not of that size.
        """
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return None if together else int(self.batches.batch_size)

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is not drawn."""
        return bool(self.batches.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Tell what draws the batches which epoch comes next, where it wants to know."""
        tell = self._found("set_epoch")
        if tell is not None:
            tell(epoch)

    def _found(self, name: str) -> Any:
        within = getattr(self.batches, "sampler", None)
        return getattr(self.batches, name, getattr(within, name, None))

    def _order(self) -> dict[str, Any]:
        """Return what decides in which order the next epoch is drawn: its number, a generator."""
        generator = self._found("generator")
        state = None if generator is None else generator.get_state()
        return {"epoch": self._found("epoch"), "generator": state}

    def start_at(self, batch: int) -> None:
        """Let the next epoch begin at a drawn batch: where a stopped run had got to.

        The batches before it are selected again, so that all that follows is as it would have been,
        but they are not yielded. Load the selector's state, which is that of the epoch's beginning,
        and draw the same batches.

        Raises:
            ValueError: If an epoch has fewer batches.
        """
        start = check_integer("batch", batch)
        if hasattr(self.batches, "__len__"):
            _refuse_beyond(len(self), start)
        self._start, self._expected = start, None

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """Yield the (index, weight) pairs of each batch of which something is kept.

        Raises:
            TypeError: If a drawn batch is no list of indices.
            ValueError: If the epoch ends before the batch it was to start at, or the batches before
                are not those that were drawn when the state was saved.
        """
        selector, order = self.selector, self._order()
        again, told, self._epoch = self._epoch, order["epoch"], None
        epoch = told if again is None else again
        passed, selector.held, selector.passed = selector.passed, None, None
        if passed is not None and passed is not self._passed and passed["epoch"] == epoch:
            selector.load_state_dict({**selector.state_dict(), **passed["beginning"]})
        selector.held = held = selector.state_dict()
        self._beginning = {"selector": held, "order": order | {"epoch": epoch}}
        start, self._start, self._drawn = self._start, 0, 0
        expected, self._expected, self._digest = self._expected, None, 0
        if again is not None:
            self.set_epoch(again)
        drawn_batches = iter(self.batches)
        following = next(drawn_batches, None)
        if again is not None:  # what was told meanwhile is of the epoch after
            self.set_epoch(told or 0)
        while following is not None:
            drawn, following = following, next(drawn_batches, None)
            if np.ndim(drawn) == 0:
                raise TypeError(_NO_BATCH.format(f"{drawn!r} as batch {self._drawn}"))
            indices = [plain(index) for index in drawn]
            self._digest = zlib.crc32(repr(indices).encode(), self._digest)
            if self._drawn + 1 == start and expected not in (None, self._digest):
                raise ValueError(_ANOTHER_ORDER.format(start))
            kept, weights = selector.select(indices)
            pairs = zip(kept.tolist(), weights.tolist(), strict=True)
            chosen = [(indices[i], float(weight)) for i, weight in pairs]
            if not chosen and selector.kept_elsewhere:
                chosen = [(indices[0], 0.0)]
            if following is None:  # whoever knows the length does not ask for what comes after
                self._pass(epoch)
            self._drawn += 1
            if chosen and self._drawn > start:
                yield chosen
        _refuse_beyond(self._drawn, start)
        self._drawn, self._beginning = 0, None

    def _pass(self, epoch: int | None) -> None:
        """Let the selector's state be of after the epoch, whose last batches may be trained on yet.

        So it holds the epoch's beginning too: a run that takes it up and begins that epoch again,
        which its number tells, means to skip what it has trained on.
        """
        held, self.selector.held = self.selector.held or {}, None
        beginning = {name: value for name, value in held.items() if name != "memory"}
        known = None if epoch is None else {"epoch": epoch, "beginning": beginning}
        self._passed = self.selector.passed = known

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's beginning, and how many batches were drawn since: a snapshot.

        Raises:
            ValueError: If the batches are in an order that cannot be drawn again.
        """
        order, sampler = self._order(), self._found("sampler")
        if hasattr(sampler, "generator") and order["epoch"] is order["generator"] is None:
            raise ValueError(_NO_GENERATOR.format(type(sampler).__name__))
        if self._beginning is not None:  # made once an epoch: loaders ask at every batch
            return {**self._beginning, "drawn": self._drawn, "digest": self._digest}
        order |= {"epoch": self._epoch}
        state = {"selector": self.selector.state_dict(), "order": order, "drawn": self._start}
        return {**state, "digest": self._expected}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned: the next epoch is the rest of the one it was in.

        The selector's state is in it: what was loaded there before is replaced.

        Raises:
            ValueError: If an entry is missing, or the state is of another run.
        """
        require_entries(state, ("selector", "order", "drawn"))
        order, generator = state["order"], self._found("generator")
        drawn_by = order["generator"]
        if drawn_by is not None and generator is None:
            raise ValueError(_NO_GENERATOR.format(type(self._found("sampler")).__name__))
        self.start_at(state["drawn"])
        self.selector.load_state_dict(state["selector"])
        if drawn_by is not None:
            generator.set_state(torch.as_tensor(drawn_by, dtype=torch.uint8))
        self._epoch, self._drawn, self._beginning = order["epoch"], 0, None
        self._expected = state.get("digest")


def _drawn_by(sampler: Any, batches: Any) -> Any:
    """Return the batches drawn by another sampler, by one that is of several processes already."""
    own: Any = getattr(batches, "sampler", None)
    replicas = getattr(sampler, "num_replicas", None)
    if sampler is None or replicas == getattr(own, "num_replicas", 0):
        return batches
    every = replicas and type(own) in _OF_ALL and not getattr(own, "replacement", False)
    if not every or len(own) != len(sampler.dataset):
        raise ValueError(_INJECTED.format(type(sampler).__name__, type(own).__name__))
    batches = copy.copy(batches)
    batches.sampler = sampler
    return batches


def _refuse_beyond(drawn: int, start: int) -> None:
    if start > drawn:
        raise ValueError(
            f"batch must be in [0, {drawn}], the drawn batches of one epoch, got {start}; "
            f"after whole epochs load the selector's state and pass batch % {drawn}"
        )


def _refuse_what_is_known_later(selector: Selector) -> None:
    late = asked_of(selector.policy.needs, "learner", "evaluation", "gradients")
    why = f"needs {', '.join(late)}" if late else "learns from each step"
    if late or selector.learns:
        raise ValueError(
            f"selector: policy {selector.name!r} {why}, and batches are selected ahead of "
            "training, how far depends on the workers; call selector.select inside the loop instead"
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
