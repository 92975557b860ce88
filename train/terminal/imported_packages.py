"""Whether gstds and its libraries are the ones that a user's process imports."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gstds

__all__ = ["NEEDED", "check_mlflow", "check_shadowing"]

NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "gymnasium": "gymnasium",
    "mlflow": "mlflow",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
}
"""The libraries that must be there: what is installed, and what is imported."""

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


def check_shadowing() -> list[str]:
    """Say what a Python that is started in this folder imports in the place of gstds and the rest.

    Returns:
        One sentence for each package that another path shadows; empty if all is well.
    """
    own = str(gstds.__file__)
    command = [sys.executable, "-c", _LOOK, own, *NEEDED.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    # A library that looks is told of by the first line; what follows is of gstds itself.
    found: dict[str, Any] = json.loads(done.stdout.partition("\n")[0] or "{}")
    problems = []
    if found and not _same(found["gstds"], own):
        problems.append(_shadowed("gstds", found["gstds"], own))
    elif done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        problems.append(f"a Python that is started here cannot import gstds of {own}: {reason}")
    for project, name in NEEDED.items():
        installed = _installed(project, name)
        place = found.get(name)
        if installed and place and not Path(place).resolve().is_relative_to(installed.resolve()):
            problems.append(_shadowed(name, place, str(installed)))
    return problems + check_mlflow()


def check_mlflow() -> list[str]:
    """Say whether MLflow is only a folder of that name, as in a clone of this project."""
    spec = sys.modules.get("mlflow") or importlib.util.find_spec("mlflow")
    if spec is None or getattr(spec, "origin", None) or getattr(spec, "__file__", None):
        return []
    return ["package 'mlflow' is not installed: only a folder of that name is found; install it"]


def _same(found: str | None, own: str) -> bool:
    return found is not None and Path(found).resolve() == Path(own).resolve()


def _installed(project: str, name: str) -> Path | None:
    """Return where an installed project has its package; None if that cannot be told."""
    try:
        folder = Path(str(importlib.metadata.distribution(project).locate_file(name)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return folder if folder.is_dir() else None


def _shadowed(name: str, found: str | None, own: str) -> str:
    if found is None:
        return f"package {name!r} of {own} is not found by a Python that is started here"
    kind = "folder" if Path(found).is_dir() or Path(found).name == "__init__.py" else "file"
    return (
        f"package {name!r} comes from {found} in a Python that is started here, which shadows "
        f"{own}; rename that {kind} or start elsewhere"
    )
