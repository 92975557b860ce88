"""What the processes of a distributed training tell each other: counts, and losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

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
        self._wanted = distributed
        self._device = device
        self._settled: int | None = None

    @property
    def count(self) -> int:
        """How many processes there are; how many there are now, before they are settled."""
        return self._now() if self._settled is None else self._settled

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
        if self._settled is None:
            self._settled = now
        if now != self._settled:
            raise RuntimeError(
                f"torch.distributed has {now} processes, and had {self._settled} when the selector "
                "was first used; make the process group before the first batch and keep it, or "
                "pass distributed=False"
            )
        return now

    def _now(self) -> int:
        if self._wanted is False or not _ready():
            return 1
        import torch.distributed as dist

        return dist.get_world_size()

    def totals(self, *values: int) -> tuple[int, ...]:
        """Return the sum of each number over all processes."""
        if self.count == 1:
            return values
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.int64, device=self._device)
        dist.all_reduce(tensor)
        return tuple(tensor.tolist())

    def gather(
        self, indices: npt.NDArray[np.int64], losses: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the samples and losses of all processes, in the order of their ranks."""
        if self.count == 1:
            return indices, losses
        lengths = self._all(np.array([len(indices)], dtype=np.float64))
        most = int(max(length[0] for length in lengths))
        # float64 holds indices up to 2^53 and every float32 loss exactly: one exchange for both.
        both = np.zeros((2, most), dtype=np.float64)
        both[0, : len(indices)], both[1, : len(indices)] = indices, losses
        parts = [
            part[:, : int(length[0])] for part, length in zip(self._all(both), lengths, strict=True)
        ]
        joined = np.concatenate(parts, axis=1)
        return joined[0].astype(np.int64), joined[1].astype(np.float32)

    def _all(self, values: npt.NDArray[np.float64]) -> list[npt.NDArray[Any]]:
        import torch
        import torch.distributed as dist

        own = torch.as_tensor(values, device=self._device)
        every = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(every, own)
        return [part.cpu().numpy() for part in every]


def _ready() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()
