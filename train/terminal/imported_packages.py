"""Whether gstds and MLflow are the ones that a user's process imports; costs no import."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import gstds

__all__ = ["check_mlflow", "check_shadowing"]

_FIND = (
    "import importlib.util as u; s = u.find_spec('gstds'); "
    "print(s and (s.origin or next(iter(s.submodule_search_locations))))"
)


def check_shadowing() -> list[str]:
    """Say what a Python that is started in this folder imports in the place of gstds and MLflow.

    Returns:
        One sentence for each package that another path shadows; empty if all is well.
    """
    own = Path(gstds.__file__).resolve()
    command = [sys.executable, "-c", _FIND]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = Path(done.stdout.strip() or ".").resolve()
    problems = []
    if done.returncode == 0 and found != own:
        problems.append(
            f"package 'gstds' comes from {found} in a Python that is started here, which shadows "
            f"{own}; rename that folder or start elsewhere"
        )
    return problems + check_mlflow()


def check_mlflow() -> list[str]:
    """Say whether MLflow is only a folder of that name, as in a clone of this project."""
    spec = sys.modules.get("mlflow") or importlib.util.find_spec("mlflow")
    if spec is None or getattr(spec, "origin", None) or getattr(spec, "__file__", None):
        return []
    return ["package 'mlflow' is not installed: only a folder of that name is found; install it"]
