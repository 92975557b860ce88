"""An update recorded once as a CUDA graph and replayed: one call instead of some hundred.

On a fast GPU an update of a small network takes as long as the processor needs to call its kernels,
however few samples are kept: then dropping samples saves no time. A graph calls them all at once.
The kernels are the same, and so is every bit of the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

PLAIN_UPDATES = 16
"""Updates of one count before it is recorded: recording costs about as much as these save."""
_MOST = 256
"""Counts that are recorded: each graph takes some megabytes."""

Tensors = tuple[torch.Tensor, ...]
Recorded = tuple[torch.cuda.CUDAGraph, Tensors, torch.Tensor]
"""A graph, its inputs and its losses."""
Update = Callable[..., torch.Tensor]
"""Images, labels, weights and divisor -> losses (n,), all on the GPU."""


class CapturedUpdates:
    """Makes updates; those of a sample count that comes often, by replaying a graph.

    All of them are made on a stream of their own, since a graph cannot be recorded on the default
    one, nor its memory be shared with what was begun there.

    Args:
        update: Makes one update: kernels alone, no value read back, nothing random.
        device: The GPU.

    Attributes:
        replayed: Updates that were replays.
    """

    def __init__(self, update: Update, device: torch.device) -> None:
        self._update, self._device = update, device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._most = _MOST
        self.replayed = 0
        self.forget()

    def forget(self) -> None:
        """Drop what was recorded: it reads and writes the optimizer's state where it lay then."""
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._recorded: dict[tuple[int, ...], Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Update; return the samples' losses (n,), to be read before the next update."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._on_own_stream(tuple(inputs[0].shape), inputs)
        current.wait_stream(self._stream)
        return losses

    def _on_own_stream(self, shape: tuple[int, ...], inputs: Tensors) -> torch.Tensor:
        self._seen[shape] += 1
        often = self._seen[shape] > PLAIN_UPDATES
        if not (shape in self._recorded or (often and self._record(shape, inputs))):
            return self._update(*inputs)
        graph, own, losses = self._recorded[shape]
        for one, given in zip(own, inputs, strict=True):
            one.copy_(given)
        graph.replay()
        self.replayed += 1
        return losses

    def _record(self, shape: tuple[int, ...], inputs: Tensors) -> bool:
        if len(self._recorded) >= self._most:
            return False
        graph, own = torch.cuda.CUDAGraph(), tuple(value.clone() for value in inputs)
        try:
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                losses = self._update(*own)
        except torch.OutOfMemoryError:
            self._most = 0  # what was recorded stays; the rest goes on as before
            return False
        self._recorded[shape] = graph, own, losses
        return True
