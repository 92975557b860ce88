"""Frozen reference networks by name: uint8 images in, features out.

Each is deterministic, in eval mode and in float32, and an image's features do not depend on the
batch that it comes in (bfloat16 was tried and is not used: it turns some features by 10 degrees).
The features are after the last ReLU, hence never negative, for every shipped network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gstds.common.checks import check_integer, import_attribute, near_names, users_code
from gstds.common.files import sha256
from gstds.observation.cost import count_layers
from gstds.reference import backbones
from gstds.reference.vision import mend_imports

DEFAULT_REFERENCE = "efficientnet-lite0"
MIN_SIZE, MAX_SIZE = 64, 224
_BATCH = 128

REFERENCES = {
    "efficientnet-lite0": "EfficientNet-Lite0, ImageNet weights (extra 'backbone'), 1,280 features",
    "resnet50": "ResNet-50 (the paper's), ImageNet weights by download, 2,048 features",
    "untrained": "EfficientNet-Lite0 with random weights: the control, 1,280 features",
}


LITE_INPUT = {"mean": [127.0] * 3, "std": [128.0] * 3}
IMAGENET_INPUT = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


def _prepared(images: Tensor, size: int, mean: list[float], std: list[float]) -> Tensor:
    """Turn images uint8 (n, C, H, W) of 0…255 into a network's input: (x - mean) / std, RGB.

    Returns:
        float32 (n, 3, size, size), channels last.
    """
    x = images.float()
    if x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    center, spread = (x.new_tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return ((x - center) / spread).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Reference:
    """A frozen reference model.

    Attributes:
        name: The name it was made by.
        input_size: Side in pixels that images are resized to; 0 if the user's function gets them
            as they are.
        feature_dim: How many features an image has.
        identity: Backbone, input size, weight digest and preprocessing (JSON).
        flops_per_image: Floating point operations of one image's features, 2 per multiply-add.
        device: Where it computes.
    """

    name: str
    input_size: int
    feature_dim: int
    identity: dict[str, Any]
    flops_per_image: float
    device: torch.device
    _compute: Callable[[Tensor], Tensor] = field(repr=False, compare=False)

    def features(self, images: Tensor) -> Tensor:
        """Return the features of some images.

        Args:
            images: uint8 (n, C, H, W), C = 1 (repeated) or 3 (RGB), any side; they are resized to a
                square.

        Returns:
            float32 (n, D) on the CPU, not normalized.

        Raises:
            TypeError: If the images are not uint8.
            ValueError: If their shape is wrong, or a user's function returns something else.
        """
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            found = getattr(images, "dtype", type(images))
            raise TypeError(f"images must be a uint8 tensor, got {found}")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise ValueError(
                f"images must have the shape (n, 1 or 3, height, width), got {tuple(images.shape)}"
            )
        if not len(images):
            return torch.empty((0, self.feature_dim))
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            split = torch.split(images, _BATCH)
            parts = [self._compute(part.to(self.device)).float().cpu() for part in split]
        # Out of inference mode, so that a caller may compute with the features.
        return torch.cat(parts)


def reference_names() -> dict[str, str]:
    """Return the references that need no argument, each with its description."""
    return dict(REFERENCES)


def make_reference(
    name: str, *, image_side: int, device: torch.device | str = "cpu", seed: int = 0
) -> Reference:
    """Make a frozen reference model.

    Args:
        name: ``efficientnet-lite0``, ``resnet50``, ``untrained``, ``checkpoint:PATH``, or
            ``module:function``, which takes no argument and returns a callable (or an
            ``nn.Module``) from uint8 RGB images (n, 3, H, W) to features (n, D).
        image_side: The longer side of the data's images in pixels. Shipped networks run at that
            size, but no smaller than 64 and no larger than 224.
        device: Where to compute.
        seed: Seed of ``untrained``.

    Raises:
        ValueError: If the name is unknown, the user's module is missing, a checkpoint does not fit
            or the device is not there.
        ImportError: If a package is missing; the message says what to install.
        OSError: If a file is missing or a download fails.
    """
    check_reference(name)
    side = check_integer("image_side", image_side, low=1)
    size = min(MAX_SIZE, max(MIN_SIZE, side))
    target = _checked_device(device)
    if name in REFERENCES or name.startswith("checkpoint:"):
        return _shipped(name, size, target, check_integer("seed", seed))
    return _custom(name, side, target)


def check_reference(name: str) -> None:
    """Check that there may be a reference of a name, without loading it.

    Raises:
        TypeError: If it is no text.
        ValueError: If the name is unknown, or its module is missing.
    """
    if not isinstance(name, str):
        raise TypeError(f"reference must be a name, got {name!r}")
    if name in REFERENCES or name.startswith("checkpoint:"):
        return
    if ":" not in name:
        known = [*REFERENCES, "checkpoint:PATH", "module:function"]
        raise ValueError(f"reference: unknown name {name!r}; {near_names(name, known)}")
    import_attribute(f"reference {name!r}", name)


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(
            f"device must be one that torch has here, such as 'cpu' or 'cuda:0', got {device!r}"
        ) from error
    return target


def _shipped(name: str, size: int, device: torch.device, seed: int) -> Reference:
    extra: dict[str, Any] = {}
    if name == "untrained":
        architecture, extra = backbones.LITE0, {"seed": seed, "batchnorm": "synthetic"}
        network, digest = backbones.build_untrained(size, seed)
    else:
        named = {"resnet50": backbones.imagenet_resnet50, backbones.LITE0: backbones.lite0_weights}
        path = named[name]() if name in named else Path(name.partition(":")[2])
        state = backbones.read_checkpoint(path)
        architecture = backbones.detect(state, str(path))
        network = backbones.build(architecture, size)
        backbones.load(network, state, str(path))
        digest = backbones.weights_digest(network.state_dict())
    scaling = LITE_INPUT if architecture == backbones.LITE0 else IMAGENET_INPUT
    with torch.inference_mode():
        dim = int(network(torch.zeros((1, 3, size, size))).shape[1])
    flops = count_layers(network, (3, size, size), train=False, batch=1)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocessing = {"channels": "RGB, grey repeated", "resize": "bilinear, antialias", **scaling}
    # Not the path of a checkpoint: a file that moves is still the same network.
    identity: dict[str, Any] = {"reference": name.partition(":")[0], "architecture": architecture}
    identity |= {"input_size": size, "feature_dim": dim, "weights_sha256": digest}
    identity |= {"preprocessing": preprocessing, "precision": "float32", **extra}
    compute = lambda images: network(_prepared(images, size, **scaling))  # noqa: E731
    return Reference(name, size, dim, identity, flops, device, compute)


def _custom(name: str, side: int, device: torch.device) -> Reference:
    mend_imports()
    function = import_attribute(f"reference {name!r}", name)
    with users_code(f"reference {name!r}"):
        model = function()
    if not callable(model):
        fault = f"the function must return a callable or an nn.Module, got {type(model).__name__}"
        raise ValueError(f"reference {name!r}: {fault}")
    if isinstance(model, nn.Module):
        model = model.eval().requires_grad_(False).to(device)

    def compute(images: Tensor) -> Tensor:
        with users_code(f"reference {name!r}"):
            values = model(images.expand(-1, 3, -1, -1))
        shape = tuple(getattr(values, "shape", ()))
        if not isinstance(values, Tensor) or len(shape) != 2 or shape[0] != len(images):
            raise ValueError(
                f"reference {name!r}: features must be a tensor ({len(images)}, D), got "
                f"{type(values).__name__} of shape {shape}"
            )
        return values

    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        pair = torch.zeros((2, 3, side, side), dtype=torch.uint8, device=device)
        dim = int(compute(pair).shape[1])
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    source = inspect.getsourcefile(function)
    identity: dict[str, Any] = {"reference": name, "architecture": "custom", "image_side": side}
    digest = backbones.weights_digest(state) if state else None
    identity |= {"feature_dim": dim, "weights_sha256": digest}
    # A changed function must not meet the features of the old one.
    identity["source_sha256"] = sha256(Path(source).read_bytes() if source else b"")
    identity["preprocessing"] = "the function's own"
    return Reference(name, 0, dim, identity, counter.get_total_flops() / 2, device, compute)
