"""The ledger: what a run has spent, in floating-point operations and in seconds, by phase.

Charged compute is what a policy is responsible for: training on the kept samples, scoring forwards,
spectral solves, any evaluation that a policy or a reward consumes, and the policy's own arithmetic.
Monitoring evaluations, the same for every policy, and the frozen reference stand beside it, not in
it. A multiply-add counts as two operations.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gstds.common.checks import check_choice
from gstds.common.state import Stateful

CHARGED_PHASES = ("train", "score", "spectral", "evaluate", "policy")
REFERENCE_PHASES = ("features", "probe")
_PHASES = (*CHARGED_PHASES, *REFERENCE_PHASES, "monitor")


class Ledger(Stateful):
    """Counts operations and seconds by phase.

    Attributes:
        flops: Operations by phase: ``train``, ``score``, ``spectral``, ``evaluate``, ``policy``
            (charged), ``features``, ``probe`` (the reference), ``monitor`` (neither).
        seconds: Wall-clock seconds by phase, of whatever phases were timed.
    """

    state = ("flops", "seconds")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.flops: dict[str, float] = dict.fromkeys(_PHASES, 0.0)
        self.seconds: dict[str, float] = {}
        self._clock = clock

    def charge(self, phase: str, flops: float) -> None:
        """Add operations to a phase.

        Raises:
            ValueError: If the phase is unknown or ``flops`` is negative or not finite.
        """
        check_choice("phase", phase, _PHASES)
        if not 0.0 <= flops < float("inf"):
            raise ValueError(f"flops must be finite and >= 0, got {flops} (phase {phase!r})")
        self.flops[phase] += float(flops)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall-clock seconds of the body to a phase."""
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + self._clock() - start

    @property
    def charged_flops(self) -> float:
        """Operations that count against the budget."""
        return sum(self.flops[phase] for phase in CHARGED_PHASES)

    @property
    def reference_flops(self) -> float:
        """Operations of the frozen reference: features and probe."""
        return sum(self.flops[phase] for phase in REFERENCE_PHASES)


def count_flops(
    model: torch.nn.Module,
    shape: tuple[int, ...],
    *,
    train: bool,
    batch: int = 2,
    device: str | torch.device = "meta",
) -> float:
    """Count one sample's operations with torch's counter.

    Args:
        model: The network; it is copied, not touched.
        shape: One input's shape (C, H, W).
        train: Count forward and backward; otherwise forward alone.
        batch: Samples of the counted batch; the count is divided by it.
        device: Where; the meta device computes nothing, but has no values to branch on.

    Returns:
        Operations for one sample. BatchNorm, element-wise operations and the optimizer count zero.
    """
    twin = copy.deepcopy(model).to(device).train(train)
    images = torch.ones((batch, *shape), device=device)
    backward = torch.ops.aten.convolution_backward
    counter = FlopCounterMode(display=False, custom_mapping={backward: _convolution_backward})
    with counter, torch.set_grad_enabled(train):
        output = twin(images)
        if train:
            output.sum().backward()
    return counter.get_total_flops() / batch


def _convolution_backward(*call: Any, out_shape: Any) -> int:
    """Count a forward for each gradient; torch's own count knows no groups."""
    gradient, inputs, weight, transposed, wanted = *call[:3], call[7], call[10]
    batch, _, *area = inputs if transposed else gradient
    return int(2 * batch * math.prod(area) * math.prod(weight) * sum(wanted[:2]))


def count_layers(
    model: torch.nn.Module, shape: tuple[int, ...], *, train: bool, batch: int = 2
) -> float:
    """Count one sample's operations layer by layer, for a network of known layers.

    The same figure as `count_flops` where every multiplication is that of a ``Conv2d`` or a
    ``Linear``. Torch's counter loads torch's compiler, which takes seconds of every process.

    Arguments and result are those of `count_flops`.
    """
    total = 0

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        passes = 1  # and one for each gradient: of the weights, of what came in
        if torch.is_grad_enabled():
            passes += int(weight.requires_grad) + int(inputs[0].requires_grad)
        total += passes * 2 * weight[0].numel() * output.numel()

    twin = copy.deepcopy(model).to("cpu").train(train)
    for layer in twin.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.set_grad_enabled(train):
        twin(torch.zeros((batch, *shape)))
    return total / batch
