"""Whether the project's packages, and MLflow, are the ones that are imported; costs no import."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

__all__ = ["PACKAGES", "check_shadowing"]

PACKAGES = ("gstds", "envs", "policies", "train")


def check_shadowing() -> list[str]:
    """Say which of the four packages come from elsewhere than this one.

    Returns:
        One sentence for each package that another path shadows; empty if all is well.
    """
    root = Path(__file__).resolve().parent.parent
    problems = []
    for name in PACKAGES:
        found = _folder(name)
        own = root / name
        if found is None:
            problems.append(f"package {name!r} is missing: {own} cannot be imported; install again")
        elif found != own:
            problems.append(
                f"package {name!r} comes from {found}, which shadows {own}; rename that folder or "
                "start elsewhere"
            )
    return problems + _mlflow_problem()


def _mlflow_problem() -> list[str]:
    spec = sys.modules.get("mlflow") or importlib.util.find_spec("mlflow")
    if spec is None or getattr(spec, "origin", None) or getattr(spec, "__file__", None):
        return []
    return ["package 'mlflow' is not installed: only a folder of that name is found; install it"]


def _folder(name: str) -> Path | None:
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if module is None:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
        if spec and origin is None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(origin).resolve().parent if origin else None
