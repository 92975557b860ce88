"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def lazy_names(
    package: str, file: str, rooms: Sequence[str] = ()
) -> tuple[Callable[[str], Any], list[str]]:
    """Return ``__getattr__`` and ``__all__`` for a package's ``__init__``.

    Its names stand there once: they are those that its ``if TYPE_CHECKING:`` imports.

    Args:
        package: The package's ``__name__``.
        file: Its ``__file__``.
        rooms: Sub-packages that are imported in the same way.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    inside = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    lines = [node for node in inside if isinstance(node, ast.ImportFrom)]
    names = {one.name: str(line.module) for line in lines for one in line.names}

    def get(name: str) -> Any:
        if name in rooms:
            return importlib.import_module(f"{package}.{name}")
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(names[name]), name)

    return get, sorted(names)
