"""What the processes of a distributed training tell each other: counts, and losses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from gstds.common.process_group import Group, ProcessGroup

__all__ = ["Ranks"]


class Ranks:
    """The processes that train one network together; one of them where nothing is distributed.

    They are counted when the first batch is selected: a process group may be made after the
    selector, as Lightning does.

    Args:
        distributed: False to look at this process alone; None to look whether
            ``torch.distributed`` is initialized; True to insist on it.
        device: Where tensors must be to be exchanged.

    Raises:
        TypeError: If ``distributed`` is no bool.
    """

    def __init__(self, distributed: bool | None, device: torch.device | str) -> None:
        if distributed is not None and not isinstance(distributed, bool):
            raise TypeError(f"distributed must be True, False or None, got {distributed!r}")
        self._wanted, self._device = distributed, device
        self._settled: Group | None = None

    @property
    def count(self) -> int:
        """How many processes there are; how many there are now, before they are settled."""
        return self._group.size

    @property
    def _group(self) -> Group:
        return self._settled or self._now()

    def settle(self) -> int:
        """Return how many processes there are, from now on for good.

        Raises:
            ValueError: If ``distributed`` is True and no process group was initialized.
            RuntimeError: If there were others at the call before.
        """
        now = self._now()
        if self._wanted and not _ready():
            raise ValueError(
                "distributed must not be True without a process group; call "
                "torch.distributed.init_process_group first, or leave distributed out"
            )
        self._settled = self._settled or now
        if now.size != self._settled.size:
            raise RuntimeError(
                f"torch.distributed has {now.size} processes, and had {self._settled.size} when "
                "the selector was first used; make the process group before the first batch and "
                "keep it, or pass distributed=False"
            )
        return now.size

    def _now(self) -> Group:
        alone = self._wanted is False or not _ready()
        return Group() if alone else ProcessGroup(torch.device(self._device))

    def totals(self, *values: int) -> tuple[int, ...]:
        """Return the sum of each number over all processes."""
        return tuple(self._group.join(np.array(values, dtype=np.int64)).tolist())

    def gather(
        self, indices: npt.NDArray[np.int64], losses: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the samples and losses of all processes, in the order of their ranks."""
        group = self._group
        lengths = np.zeros(group.size, dtype=np.int64)
        lengths[group.rank] = len(indices)
        ends = group.join(lengths).cumsum()
        mine = slice(ends[group.rank] - len(indices), ends[group.rank])
        # float64 holds indices up to 2^53 and every float32 loss exactly: one exchange for both.
        both = np.zeros((2, ends[-1]), dtype=np.float64)
        both[:, mine] = indices, losses
        joined = group.join(both)
        return joined[0].astype(np.int64), joined[1].astype(np.float32)


def _ready() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()
