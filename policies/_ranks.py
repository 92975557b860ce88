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

    Args:
        distributed: False to look at this process alone; None to look whether
            ``torch.distributed`` is initialized; True to insist on it.
        device: Where tensors must be to be exchanged.

    Raises:
        ValueError: If ``distributed`` is True and no process group was initialized.
    """

    def __init__(self, distributed: bool | None, device: torch.device | str) -> None:
        import torch.distributed as dist

        ready = dist.is_available() and dist.is_initialized()
        if distributed and not ready:
            raise ValueError(
                "distributed must not be True without a process group; call "
                "torch.distributed.init_process_group first, or leave distributed out"
            )
        self._together = ready and distributed is not False
        self._device = device
        self.count: int = dist.get_world_size() if self._together else 1

    def total(self, value: int) -> int:
        """Return the sum of a number over all processes."""
        if self.count == 1:
            return value
        import torch
        import torch.distributed as dist

        tensor = torch.tensor([value], dtype=torch.int64, device=self._device)
        dist.all_reduce(tensor)
        return int(tensor.item())

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
