"""Optimizers of torch that do not load torch's compiler.

An optimizer of torch imports ``torch._dynamo`` when it is made and whenever it steps, to tell the
compiler what not to compile. Nothing here is compiled, and the import takes seconds of every
process: as long as some whole runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["SGD", "AdamW", "eager"]

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)
_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def eager(kind: type[Optimizer]) -> type[Optimizer]:
    """Return the optimizer's class without its ties to the compiler: same arithmetic, same hooks.

    Args:
        kind: A class of ``torch.optim``; its steps are not differentiated.
    """
    bare: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    bare["step"] = _without_gradient(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), bare)


def _without_gradient(step: Callable[..., Any]) -> Callable[..., Any]:
    def plain_step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        with torch.no_grad():
            return step(self, closure)

    return plain_step


SGD = eager(torch.optim.SGD)
AdamW = eager(torch.optim.AdamW)
