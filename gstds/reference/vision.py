"""The one door to torchvision: it opens even where torchvision's compiled operators cannot load.

A torchvision built for CUDA beside a CPU torch (the commonest mixed install) fails on import,
because its Python half registers fake kernels for operators that its compiled half never declared.
Declaring those two operators is enough for models, weights, transforms and data sets. What needs
the compiled half (``ops.nms``, detection models, ``io.decode_*``) still fails when it is called.

A spawned process starts with a fresh interpreter, so it must come through this door before it
unpickles a torchvision object: ``Pool(initializer=import_torchvision)``.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A library takes its operators with it when it is collected, so it is kept for the process's life.
_declared: list[torch.library.Library] = []
_lock = threading.Lock()


def import_torchvision() -> ModuleType:
    """Import torchvision, mending the mixed install described above.

    Returns:
        The module ``torchvision``.

    Raises:
        ImportError: If torchvision is not installed.
        RuntimeError: If torchvision fails for any other reason than the missing operators.
    """
    with _lock:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if "operator torchvision::nms does not exist" not in str(error):
                raise
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        if not _declared:
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for operator in _OPERATORS:
                library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
            _declared.append(library)
        return importlib.import_module("torchvision")


def operators_declared() -> bool:
    """Say whether torchvision was imported by that mending, without its compiled operators."""
    return bool(_declared)
