"""The learner: a network, its optimizer, one weighted update, and its evaluation."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from gstds.common.checks import check_choice, users_code
from gstds.common.process_group import Group
from gstds.common.state import Stateful
from gstds.envs.learner.batch_norm import normalize_globally
from gstds.envs.learner.cuda_graphs import CapturedUpdates
from gstds.envs.learner.gradient_meter import GradientMeter
from gstds.envs.learner.models import build_model
from gstds.envs.learner.optimizers import SGD, AdamW
from gstds.envs.learner.threads import limited_threads
from gstds.observation.cost import count_flops, count_layers
from gstds.options.world import LearnerOptions

__all__ = ["Evaluation", "Learner", "has_bfloat16", "resolve_device"]

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_REGISTER = 16  # float32 values of the widest vector register


def resolve_device(device: str) -> torch.device:
    """Return the device of a name; ``auto`` picks CUDA where there is one.

    Raises:
        ValueError: If the name is unknown or no such device is present.
    """
    kind, colon, number = str(device).partition(":")
    check_choice("device", kind, ("auto", "cpu", "cuda"))
    if device == "auto":
        return _usable(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    present = {"cpu": 1, "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}
    numbers = [str(i) for i in range(present.get(kind, 0))]
    if not numbers or (colon and number not in numbers):
        there = ["auto", "cpu", *(f"cuda:{i}" for i in range(present["cuda"]))]
        raise ValueError(f"device {device!r} is not present; use one of {', '.join(there)}")
    return _usable(torch.device(device))


def _usable(device: torch.device) -> torch.device:
    """Refuse a GPU in a process that was forked from one that had used it."""
    forked = getattr(torch.cuda, "_is_in_bad_fork", None)
    if device.type == "cuda" and forked and forked():
        raise ValueError(
            f"device {str(device)!r} cannot be used in a process forked from one that uses a GPU; "
            "start it with the method 'spawn' (gymnasium.make_vec(..., "
            "vector_kwargs={'context': 'spawn'})), or give device='cpu'"
        )
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Say whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


class Evaluation(NamedTuple):
    """Mean loss in nats, accuracy in [0, 1], and accuracy by class (C,)."""

    loss: float
    accuracy: float
    class_accuracy: tuple[float, ...]


class Learner(Stateful):
    """A network under training.

    Args:
        options: How it is trained.
        shape: An image's shape (C, H, W).
        classes: Number of classes.
        seed: Seed of the initial weights, and of dropout in a user's network.
        device: Where it runs.
        measure_noise: Measure the gradient noise scale at each update.
        group: The processes that train it together; None for this one alone.

    Attributes:
        train_flops: Forward and backward of one sample.
        forward_flops: Forward of one sample.
        min_batch: 2 where BatchNorm cannot train on one sample, else 1.
        captured: Updates that are recorded on a GPU and replayed; None where none are.
    """

    def __init__(
        self,
        options: LearnerOptions,
        *,
        shape: tuple[int, int, int],
        classes: int,
        seed: int,
        device: torch.device,
        measure_noise: bool = False,
        group: Group | None = None,
    ) -> None:
        self.options = options
        self._group = group or Group()
        self.device = device
        self.classes = classes
        self._seed = seed
        self._borrows_generator = ":" in options.learner
        wanted = options.precision
        self._bfloat16 = wanted == "bfloat16" or (wanted == "auto" and has_bfloat16(device))
        model = build_model(options.learner, shape, classes, seed)
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if ":" in options.learner:
            self._check_output(shape)
        costs = _costs(options.learner, self.model, shape, classes)
        self.train_flops, self.forward_flops, self.min_batch = costs
        if self._group.size > 1:
            self.model = normalize_globally(self.model, self._group)
        self.optimizer = self._make_optimizer()
        self._meter = GradientMeter(self._trained()) if measure_noise else None
        self.captured = self._make_captured()

    def _check_output(self, shape: tuple[int, int, int]) -> None:
        twin = copy.deepcopy(self.model).to("meta").eval()
        with users_code(f"learner {self.options.learner!r}, on images of shape {shape},"):
            output = twin(torch.empty((2, *shape), device="meta"))
        if tuple(output.shape) != (2, self.classes):
            raise ValueError(
                f"learner {self.options.learner!r} must turn images (n, {shape}) into logits "
                f"(n, {self.classes}), got {tuple(output.shape)}"
            )

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def gradient_noise(self) -> float:
        """The gradient noise scale as a share, see `gstds.observation.gradient_noise`, or 0."""
        return self._meter.share if self._meter else 0.0

    def _make_optimizer(self) -> torch.optim.Optimizer:
        options = self.options
        rate, decay = options.peak_rate, options.weight_decay
        parameters = self._trained()
        if options.optimizer == "adamw":
            return AdamW(parameters, lr=rate, weight_decay=decay)
        nesterov = options.momentum > 0
        return SGD(
            _sgd_groups(parameters, self.device),
            lr=rate,
            momentum=options.momentum,
            nesterov=nesterov,
            weight_decay=decay,
        )

    def _make_captured(self) -> CapturedUpdates | None:
        """Return what records updates, where all that they do are calls to a GPU's kernels."""
        options = self.options
        plain = (
            options.optimizer == "sgd" and options.on_nan == "stop" and ":" not in options.learner
        )
        alone = self._group.size == 1 and self._meter is None
        if not (self.device.type == "cuda" and options.cuda_graphs and plain and alone):
            return None
        self._rate = torch.zeros((), device=self.device)
        return CapturedUpdates(self._plain_update, self.device)

    @contextlib.contextmanager
    def _forward_mode(self, step: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self._borrows_generator:  # a user's network may hold dropout
                stack.enter_context(self._borrowed_generator(self._mask_seed(step)))
            if self._bfloat16:
                stack.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
            yield

    def _mask_seed(self, step: int) -> int:
        """Return the seed of a step's dropout: another one in each process."""
        return (self._seed + step + self._group.rank * 2**40) % 2**63

    @contextlib.contextmanager
    def _borrowed_generator(self, seed: int) -> Iterator[None]:
        """Seed torch's default generator of the device, and put it back as it was."""
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            yield

    def set_progress(self, progress: float) -> None:
        """Set the learning rate: a cosine from its peak at progress 0 to zero at 1."""
        rate = (
            0.5 * self.options.peak_rate * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def update(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        normalizer: float,
        *,
        step: int,
        objective: Objective | None = None,
        all_weights: torch.Tensor | None = None,
    ) -> npt.NDArray[np.float32] | None:
        """Train once on the kept samples: the loss is Σ weight · loss / normalizer.

        Of several processes each gives its part of the samples, and the sum runs over all.

        Args:
            images: Normalized images (n, C, H, W).
            labels: Classes (n,).
            weights: Loss weights (n,), all positive.
            normalizer: What the weighted sum is divided by.
            step: The drawn batch's number: keys a user's dropout.
            objective: Losses (n,) and logits (n, classes) -> what is minimized instead of the
                losses (n,).
            all_weights: The weights (m,) of all processes; None if ``weights`` are all.

        Returns:
            The samples' cross-entropy (n,) in nats, without label smoothing or ``objective``, as
            seen by this update. None if it was skipped: its loss or its gradient is not finite,
            and nothing of the learner has changed.
        """
        self.model.train()
        if self.captured and objective is None:
            return self._update_on_gpu(self.captured, images, labels, weights, normalizer)
        with limited_threads(len(labels) * self.train_flops, self.device):
            before = self._buffers() if self.options.on_nan == "skip" else None
            with self._forward_mode(step):
                logits = self.model(images)
            logits = logits.float()
            losses = self._smoothed_losses(logits, labels)
            minimized = objective(losses, logits) if objective else losses
            loss = (weights * minimized).sum() / (normalizer * self._group.copies)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self._group.add_gradients(self._trained())
            if before is not None and self._group.any(not self._is_finite(loss)):
                self._put_back(before)
                return None
            if self._meter:
                self._meter.measure(weights if all_weights is None else all_weights, normalizer)
            self.optimizer.step()
            result: npt.NDArray[np.float32] = (
                self._plain_losses(losses, logits, labels).cpu().numpy()
            )
            return result

    def _smoothed_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        smoothing = self.options.label_smoothing
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def _plain_losses(
        self, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        if self.options.label_smoothing:
            losses = F.cross_entropy(logits.detach(), labels, reduction="none")
        return losses.detach()

    def _update_on_gpu(
        self,
        captured: CapturedUpdates,
        images: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        normalizer: float,
    ) -> npt.NDArray[np.float32]:
        """Update with a learning rate and a divisor that lie on the GPU, where a graph reads them.

        The first of a learner's updates makes the optimizer's momenta; it is never recorded.
        """
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        self._rate.fill_(rates[0])
        divisor = torch.full((), float(normalizer), device=self.device)
        try:
            for group in groups:
                group["lr"] = self._rate
            losses = captured(images, labels, weights, divisor)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
        result: npt.NDArray[np.float32] = losses.cpu().numpy()
        return result

    def _plain_update(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        divisor: torch.Tensor,
    ) -> torch.Tensor:
        """Update; return the losses (n,). Nothing is read back, nothing depends on a value."""
        with self._forward_mode(0):
            logits = self.model(images)
        logits = logits.float()
        losses = self._smoothed_losses(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward((weights * losses).sum() / divisor)
        self.optimizer.step()
        return self._plain_losses(losses, logits, labels)

    def _buffers(self) -> list[torch.Tensor]:
        """Return what a forward changes: BatchNorm's statistics."""
        return [buffer.detach().clone() for buffer in self.model.buffers()]

    def _put_back(self, buffers: list[torch.Tensor]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)

    def _is_finite(self, loss: torch.Tensor) -> bool:
        """Say whether a loss and the length of its gradient are finite."""
        gradients = [p.grad.detach() for p in self._trained() if p.grad is not None]
        squares = [gradient.float().square().sum() for gradient in gradients]
        return bool(torch.isfinite(torch.stack([loss.detach(), *squares]).sum()))

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) in evaluation mode, float32."""
        self.model.eval()
        flops = len(images) * self.forward_flops
        with limited_threads(flops, self.device), self._forward_mode(0):
            output: torch.Tensor = self.model(images)
        return output.float()

    @torch.inference_mode()
    def losses(self, images: torch.Tensor, labels: torch.Tensor) -> npt.NDArray[np.float32]:
        """Return each sample's loss (n,) in nats, in evaluation mode."""
        values = F.cross_entropy(self.logits(images), labels, reduction="none")
        result: npt.NDArray[np.float32] = values.cpu().numpy()
        return result

    def evaluate(self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Evaluation:
        """Evaluate on batches of normalized images (n, C, H, W) and labels (n,)."""
        loss, right, seen = 0.0, torch.zeros(self.classes), torch.zeros(self.classes)
        # Counts without weights: with them, no GPU has an algorithm that is the same every time.
        for images, labels in batches:
            logits = self.logits(images)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            hits = labels[logits.argmax(1) == labels]
            seen += torch.bincount(labels, minlength=self.classes).cpu()
            right += torch.bincount(hits, minlength=self.classes).cpu()
        total = float(seen.sum())
        by_class = torch.where(seen > 0, right / seen.clamp(min=1), torch.ones_like(seen))
        return Evaluation(loss / total, float(right.sum()) / total, tuple(by_class.tolist()))

    def state_dict(self) -> dict[str, Any]:
        """Return weights and the optimizer's state, as arrays and JSON-able values."""
        state = self.optimizer.state_dict()["state"]
        # By hand: torch's own pairs, and an optimizer's values laid out in memory as they were.
        measured = {"gradient_noise": self._meter.state_dict()} if self._meter else {}
        return measured | {
            "model": {k: v.detach().clone() for k, v in self.model.state_dict().items()},
            "optimizer": {
                str(i): {k: copy.deepcopy(v) for k, v in slot.items()} for i, slot in state.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        if self.captured:
            self.captured.forget()
        if self._meter:
            self._meter.load_state_dict(state["gradient_noise"])
        groups = self.optimizer.state_dict()["param_groups"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        slots = {
            int(i): {k: _laid_out_as(parameters[int(i)], v) for k, v in slot.items()}
            for i, slot in state["optimizer"].items()
        }
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _sgd_groups(parameters: list[nn.Parameter], device: torch.device) -> list[dict[str, Any]]:
    """Have large tensors updated in one pass over memory instead of four.

    On the processor, whole vector registers round as the plain update does, to the bit; what is
    left over at a tensor's end would not, so tensors that have such an end keep the plain update.
    """
    if device.type != "cpu":
        return [{"params": parameters, "fused": True}]
    whole = [p.numel() % _REGISTER == 0 and p.dtype == torch.float32 for p in parameters]
    one_pass = [p for p, fits in zip(parameters, whole, strict=True) if fits]
    rest = [p for p, fits in zip(parameters, whole, strict=True) if not fits]
    groups: list[dict[str, Any]] = [{"params": one_pass, "fused": True}, {"params": rest}]
    return [group for group in groups if group["params"]]


def _laid_out_as(parameter: nn.Parameter, value: Any) -> Any:
    """Return a copy of an optimizer's value; the update in one pass reads memory, not strides."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return copy.deepcopy(value)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


_known_costs: dict[tuple[str, tuple[int, int, int], int], tuple[float, float, int]] = {}


def _costs(
    name: str, model: nn.Module, shape: tuple[int, int, int], classes: int
) -> tuple[float, float, int]:
    """Return the operations of training on and scoring one sample, and the smallest batch.

    Counting takes longer than making the network. A built-in network's count is kept; a user's
    module may change under its name.
    """
    key = (name, shape, classes)
    if ":" in name:
        return _count_costs(count_flops, model, shape)
    if key not in _known_costs:
        _known_costs[key] = _count_costs(count_layers, model, shape)
    return _known_costs[key]


def _count_costs(
    count: Callable[..., float], model: nn.Module, shape: tuple[int, int, int]
) -> tuple[float, float, int]:
    train = count(model, shape, train=True)
    forward = count(model, shape, train=False)
    try:
        count(model, shape, train=True, batch=1)
    except ValueError:  # BatchNorm refuses one value per channel
        return train, forward, 2
    return train, forward, 1
