"""The one door to torchvision: it opens even where torchvision's compiled operators cannot load.

A torchvision built for CUDA beside a CPU torch (the commonest mixed install) fails on import,
because its Python half registers fake kernels for operators that its compiled half never declared.
Declaring those two operators is enough for models, weights, transforms and data sets. What needs
the compiled half (``ops.nms``, detection models, ``io.decode_*``) still fails when it is called.

Whoever else imports torchvision in this process, a user's file or timm, comes through the door as
well once `mend_imports` was called. A spawned process starts with a fresh interpreter, so it must
call it before it unpickles a torchvision object: ``Pool(initializer=import_torchvision)``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A library takes its operators with it when it is collected, so it is kept for the process's life.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, mending the mixed install described above.

    Returns:
        The module ``torchvision``.

    Raises:
        ImportError: If torchvision is not installed.
        RuntimeError: If torchvision fails for any other reason than the missing operators.
    """
    mend_imports()
    return importlib.import_module("torchvision")


def mend_imports() -> None:
    """Have every later ``import torchvision`` of this process mended; it is not imported yet."""
    if not any(isinstance(finder, _Door) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Door())


class _Door:
    """Finds torchvision where everybody does; what runs it mends it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name) if name == "torchvision" else None
        if spec and spec.loader:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _run(run, module)  # type: ignore[method-assign]
        return spec


def _run(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        run(module)
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        import torch

        for name in [n for n in sys.modules if n.startswith("torchvision.")]:
            del sys.modules[name]
        if not _declared:
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for operator in _OPERATORS:
                library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
            _declared.append(library)
        run(module)


def operators_declared() -> bool:
    """Say whether torchvision was imported by that mending, without its compiled operators."""
    return bool(_declared)
