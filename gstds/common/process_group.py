"""Several processes that train one learner: who does what part, and sums over all of them.

Each process draws the same batches and selects the same samples from the same seeds; it trains on
its part of what was kept, and gradients are summed, so that every process makes the update that
one process would make with all that was kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gstds.common.files import sha256


class Group:
    """One process, alone: every sum is what it was.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        copies: How many processes train on the same samples just now: all, where fewer samples
            were kept than there are processes, else 1.
    """

    rank, size, copies = 0, 1, 1
    _local_rank, _device = 0, torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this process keeps the record, and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's part of ``count`` samples; sets `copies`."""
        if count < self.size:
            self.copies = self.size
            return slice(0, count)
        self.copies = 1
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def add(self, values: torch.Tensor) -> None:
        """Replace values by their sum over the processes, the same bits in each.

        Raises:
            ConnectionError: If another process has ended.
        """

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of parameters by their sums, in one message."""
        gradients = [p.grad for p in parameters if p.grad is not None] if self.size > 1 else []
        if not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.add(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def gather(self, part: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
        """Return the values (count,) whose parts, as by `share`, the processes hold."""
        mine = self.share(count)
        if self.size == 1 or self.copies > 1:
            return part
        # Each value and zeros elsewhere: the sum has the value's own bits.
        values = np.zeros(count, dtype=np.float32)
        values[mine] = part
        return self.join(values)

    def join(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values of which each process holds some, and zeros in the others' places."""
        if self.size == 1:
            return values
        everyone = torch.as_tensor(values, device=self._device).clone()
        self.add(everyone)
        return np.asarray(everyone.cpu().numpy())

    def check_same(self, values: npt.NDArray[Any], step: int) -> None:
        """Make sure that all processes chose alike.

        Raises:
            RuntimeError: If they did not.
        """
        if self.size == 1:
            return
        digests = np.zeros(self.size, dtype=np.int64)
        digests[self.rank] = int(sha256(values.tobytes())[:15], 16)
        digests = self.join(digests)
        others = np.flatnonzero(digests != digests[0])
        if len(others):
            raise RuntimeError(
                f"step {step}: process {others[0]} gives other weights than process 0; the "
                "processes need equal machines and libraries, and a policy that draws nothing "
                "from outside its seed"
            )

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set in one of the processes."""
        return bool(self.join(np.array([int(flag)]))[0])

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process of each machine go first: it fills the caches."""
        if self._local_rank:
            self.any(False)
        yield
        if not self._local_rank:
            self.any(False)


class ProcessGroup(Group):
    """This process among those that `torch.distributed` has joined.

    Args:
        device: Where tensors must be for the backend to sum them.
        local_rank: Number of this process on its machine.
    """

    def __init__(self, device: torch.device, local_rank: int = 0) -> None:
        import torch.distributed

        self._all_reduce = torch.distributed.all_reduce
        self._device, self._local_rank = device, local_rank
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def add(self, values: torch.Tensor) -> None:
        """Replace values by their sum over the processes, the same bits in each.

        Raises:
            ConnectionError: If another process has ended.
        """
        try:
            self._all_reduce(values)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            raise ConnectionError(
                f"another process of this run has ended; look at what it said ({reason})"
            ) from error


def check_size(size: int, batch_size: int) -> None:
    """Refuse more processes than a drawn batch has samples.

    Raises:
        ValueError: If there are more.
    """
    if size > batch_size:
        raise ValueError(
            f"batch_size must be at least the number of processes, {size}, got {batch_size}; "
            "raise it, or start fewer (torchrun --nproc-per-node)"
        )
