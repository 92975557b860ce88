"""The learner: a network, its optimizer, one weighted update, and what it says of a batch."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from gstds.common.checks import check_choice
from gstds.common.process_group import Group
from gstds.common.state import Stateful
from gstds.envs.learner.cuda_graphs import CapturedUpdates
from gstds.envs.learner.models import build_model, normalize_globally
from gstds.envs.learner.optimizers import GradientMeter, make_optimizer
from gstds.envs.learner.trial import try_network
from gstds.options.world import LearnerOptions

Function = TypeVar("Function", bound=Callable[..., Any])
Array = npt.NDArray[np.float32]
Shape = tuple[int, int, int]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Images (n, C, H, W), labels (n,) and weights (n,)."""
Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FLOPS_OF_A_THREAD = 3e8
"""Operations that keep one thread busy for long enough: half of where a second one began to pay."""

waiting_threads_sleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
"""Whether OpenMP's threads sleep while they wait: it reads that once, when torch is loaded.

The command line has it so. They must then be woken for every layer, and a second thread that has
little to do makes an update slower. Threads that spin are there at once, as long as no other
process wants their core; with them all are taken.
"""


def threads_for(flops: float, most: int) -> int:
    """Return how many of at most ``most`` threads so many operations are worth."""
    return max(1, min(most, int(flops // FLOPS_OF_A_THREAD)))


@contextlib.contextmanager
def limited_threads(flops: float, device: torch.device) -> Iterator[None]:
    """Let torch use no more threads in the body than its operations are worth.

    What is decided from the number of operations alone is decided alike in every run.

    Args:
        flops: Operations of the body.
        device: Where they are made; nothing is changed unless it is the processor.
    """
    before = torch.get_num_threads()
    limited = waiting_threads_sleep and device.type == "cpu"
    try:
        if limited:
            torch.set_num_threads(threads_for(flops, before))
        yield
    finally:
        if limited:
            torch.set_num_threads(before)


def with_gradients(function: Function) -> Function:
    """Return the function with gradients on while it runs, whatever its caller has set.

    Collectors of experience turn them off. Under `torch.no_grad` the learner's update would fail;
    under `torch.inference_mode` even tensors made there could not be trained later.
    """
    return torch.inference_mode(mode=False)(torch.enable_grad()(function))


def resolve_device(device: str) -> torch.device:
    """Return the device of a name; ``auto`` picks CUDA where there is one.

    Raises:
        ValueError: If the name is unknown or no such device is present, or if it is a GPU and this
            process was forked from one that had used it.
    """
    check_choice("device", device.partition(":")[0], ("auto", "cpu", "cuda"))
    on_gpu = torch.cuda.is_available()
    if device != "auto":
        numbered = [f"cuda:{i}" for i in range(torch.cuda.device_count() if on_gpu else 0)]
        if device not in ("cpu", "cpu:0", *numbered, *["cuda"][: len(numbered)]):
            there = ", ".join(["auto", "cpu", *numbered])
            raise ValueError(f"device {device!r} is not present; use one of {there}")
    chosen = torch.device(("cuda" if on_gpu else "cpu") if device == "auto" else device)
    if chosen.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ValueError(
            f"device {str(chosen)!r} cannot be used in a process forked from one that uses a GPU; "
            "start it with the method 'spawn' (gymnasium.make_vec(..., "
            "vector_kwargs={'context': 'spawn'})), or give device='cpu'"
        )
    return chosen


def has_bfloat16(device: torch.device) -> bool:
    """Say whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


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

    state = ("model", "optimizer", "_meter")

    def __init__(
        self,
        options: LearnerOptions,
        *,
        shape: Shape,
        classes: int,
        seed: int,
        device: torch.device,
        measure_noise: bool = False,
        group: Group | None = None,
    ) -> None:
        self.options, self.device, self.classes, self._seed = options, device, classes, seed
        self._group = group or Group()
        self._is_users = ":" in options.learner
        wanted = options.precision
        self._bfloat16 = wanted == "bfloat16" or (wanted == "auto" and has_bfloat16(device))
        make = partial(build_model, options.learner, shape, classes, seed)
        model = make().to(device)
        self._layout = _layout(model) if self._is_users else torch.channels_last
        self.model: nn.Module = model.to(memory_format=self._layout)  # type: ignore[call-overload]
        with self._dropout_of(seed):
            costs = try_network(options.learner, self.model, shape, classes, self._answer, make)
        self.train_flops, self.forward_flops, self.min_batch = costs
        if self._group.size > 1:
            normalize_globally(self.model, self._group)
        self.optimizer = make_optimizer(options, self._trained(), device)
        self._meter = GradientMeter(self._trained()) if measure_noise else None
        # What records updates, where all that they do are calls to a GPU's kernels.
        plain = options.optimizer == "sgd" and options.on_nan == "stop" and not self._is_users
        alone = self._group.size == 1 and self._meter is None
        self.captured: CapturedUpdates | None = None
        if device.type == "cuda" and options.cuda_graphs and plain and alone:
            self._rate = torch.zeros((), device=device)
            self.captured = CapturedUpdates(self._plain_update, device)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def gradient_noise(self) -> float:
        """The gradient noise scale as a share, see `gstds.observation.gradient_noise`, or 0."""
        return self._meter.share if self._meter else 0.0

    def _forward(self, images: torch.Tensor, step: int = 0, *, exact: bool = False) -> torch.Tensor:
        """Return logits (n, classes) in float32; a user's network may hold dropout."""
        # The seed of a step's dropout: another one in each process.
        seed = (self._seed + step + self._group.rank * 2**40) % 2**63
        logits: torch.Tensor = self._answer(self.model, images, seed, exact=exact)
        return logits.float()

    def _answer(
        self, model: nn.Module, images: torch.Tensor, seed: int = 0, *, exact: bool = False
    ) -> Any:
        if self._is_users:  # who may change them in place
            images = images.clone(memory_format=self._layout)
        rounded = self._bfloat16 and not exact
        half = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=rounded)
        with self._dropout_of(seed), half:
            return model(images)

    @contextlib.contextmanager
    def _dropout_of(self, seed: int) -> Iterator[None]:
        """For a user's network seed torch's generator of the device; put it back as it was."""
        if not self._is_users:
            yield
            return
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            yield

    def set_progress(self, progress: float) -> None:
        """Set the learning rate: a cosine from its peak at progress 0 to zero at 1."""
        done = math.pi * min(1.0, max(0.0, progress))
        for group in self.optimizer.param_groups:
            group["lr"] = 0.5 * self.options.peak_rate * (1.0 + math.cos(done))

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
    ) -> Array | None:
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
            return self._replay(self.captured, (images, labels, weights), normalizer)
        with limited_threads(len(labels) * self.train_flops, self.device):
            skips = self.options.on_nan == "skip"
            # What a forward changes: BatchNorm's statistics.
            before = [buffer.detach().clone() for buffer in self.model.buffers() if skips]
            divisor = normalizer * self._group.copies
            loss, losses = self._backward((images, labels, weights), divisor, step, objective)
            self._group.add_gradients(self._trained())
            if skips and self._group.any(not self._is_finite(loss)):
                self.optimizer.zero_grad(set_to_none=True)
                for buffer, value in zip(self.model.buffers(), before, strict=True):
                    buffer.detach().copy_(value)
                return None
            if self._meter:
                self._meter.measure(weights if all_weights is None else all_weights, normalizer)
            self.optimizer.step()
            return np.asarray(losses.cpu())

    def _backward(
        self, inputs: Inputs, divisor: Any, step: int = 0, objective: Objective | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the gradients; return the loss, and the samples' plain cross-entropy (n,)."""
        images, labels, weights = inputs
        logits = self._forward(images, step)
        smoothing = self.options.label_smoothing
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        minimized = objective(losses, logits) if objective else losses
        loss = (weights * minimized).sum() / divisor
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if smoothing:
            losses = F.cross_entropy(logits.detach(), labels, reduction="none")
        return loss.detach(), losses.detach()

    def _plain_update(
        self, images: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, divisor: Any
    ) -> torch.Tensor:
        """Update; return the losses (n,). Nothing is read back, nothing depends on a value."""
        _, losses = self._backward((images, labels, weights), divisor)
        self.optimizer.step()
        return losses

    def _replay(self, captured: CapturedUpdates, inputs: Inputs, normalizer: float) -> Array:
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
            losses = captured(*inputs, divisor)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
        return np.asarray(losses.cpu())

    def _is_finite(self, loss: torch.Tensor) -> bool:
        """Say whether a loss and the length of its gradient are finite."""
        gradients = [p.grad.detach() for p in self._trained() if p.grad is not None]
        squares = [gradient.float().square().sum() for gradient in gradients]
        return bool(torch.isfinite(torch.stack([loss, *squares]).sum()))

    @torch.inference_mode()
    def logits(self, images: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        """Return logits (n, classes) in evaluation mode, float32; computed in it too if exact."""
        self.model.eval()
        with limited_threads(len(images) * self.forward_flops, self.device):
            return self._forward(images, exact=exact)

    def evaluate(
        self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], *, exact: bool = False
    ) -> Evaluation:
        """Evaluate on batches of normalized images (n, C, H, W) and labels (n,).

        Args:
            batches: The batches.
            exact: In whole float32, as the network is used afterwards, however it is trained.
        """
        tf32 = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = tf32 and not exact
        loss, right, seen = 0.0, torch.zeros(self.classes), torch.zeros(self.classes)
        # Counts without weights: with them, no GPU has an algorithm that is the same every time.
        for images, labels in batches:
            logits = self.logits(images, exact=exact)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            hits = labels[logits.argmax(1) == labels]
            seen += torch.bincount(labels, minlength=self.classes).cpu()
            right += torch.bincount(hits, minlength=self.classes).cpu()
        torch.backends.cudnn.allow_tf32 = tf32
        total = float(seen.sum())
        by_class = torch.where(seen > 0, right / seen.clamp(min=1), torch.ones_like(seen))
        return Evaluation(loss / total, float(right.sum()) / total, tuple(by_class.tolist()))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned.

        An update in one pass reads memory, not strides: the optimizer's values are laid out as the
        parameters are.
        """
        super().load_state_dict(state)
        if self.captured:
            self.captured.forget()
        for parameter, slot in self.optimizer.state.items():
            for name, value in slot.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    slot[name] = parameter.detach().to(value.dtype, copy=True).copy_(value)


def _layout(model: nn.Module) -> torch.memory_format:
    """Return how a user's network wants images: channels last if it lays its own weights so."""
    last, plain = torch.channels_last, torch.contiguous_format
    weights = [p for p in model.parameters() if p.dim() == 4 and not p.is_contiguous()]
    return last if any(p.is_contiguous(memory_format=last) for p in weights) else plain


@torch.inference_mode()
def learner_view(
    learner: Learner, images: torch.Tensor, labels: torch.Tensor, names: Collection[str]
) -> dict[str, Array]:
    """Return the named observations of the learner, all from one forward in evaluation mode.

    Args:
        learner: The network under training.
        images: Normalized images (n, C, H, W).
        labels: Classes (n,).
        names: Of ``learner_losses`` (n,), ``learner_margin`` (n,), ``learner_entropy`` (n,),
            ``learner_probabilities`` (n, classes), ``learner_embeddings`` (n, width); others are
            ignored.

    Raises:
        ValueError: If embeddings are named and the network's output comes from no linear layer.
    """
    seen: list[torch.Tensor] = []
    with contextlib.ExitStack() as stack:
        if "learner_embeddings" in names:
            note = _head(learner).register_forward_pre_hook(
                lambda _, inputs: seen.append(inputs[0])
            )
            stack.callback(note.remove)
        logits = learner.logits(images)
    probabilities = logits.softmax(1)
    two = probabilities.topk(2, dim=1).values
    surprise = -torch.special.xlogy(probabilities, probabilities).sum(1)
    view = {
        "learner_losses": F.cross_entropy(logits, labels, reduction="none"),
        "learner_margin": two[:, 0] - two[:, 1],
        "learner_entropy": surprise / math.log(logits.shape[1]),
        "learner_probabilities": probabilities,
    }
    if seen:
        view["learner_embeddings"] = seen[-1].float().flatten(1)
    return {name: value.cpu().numpy() for name, value in view.items() if name in names}


def embedding_width(learner: Learner) -> int:
    """Return the width of the last layer's input.

    Raises:
        ValueError: If the network's output comes from no linear layer.
    """
    return _head(learner).in_features


def _head(learner: Learner) -> nn.Linear:
    """Return the last linear layer, in the order of definition, that gives the logits."""
    layers = [one for one in learner.model.modules() if isinstance(one, nn.Linear)]
    heads = [layer for layer in layers if layer.out_features == learner.classes]
    if not heads:
        raise ValueError(
            "observe 'learner_embeddings' needs a learner whose logits come from a torch.nn.Linear "
            f"layer of {learner.classes} outputs; this one has none"
        )
    return heads[-1]
