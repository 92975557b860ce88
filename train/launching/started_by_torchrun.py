"""Whether torchrun has started this process, as one of several; known before torch is imported."""

from __future__ import annotations

import os

__all__ = ["launched_rank", "launched_size", "refuse_launcher"]

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched_size() -> int:
    """Return the number of processes that a launcher has started; 1 without one.

    Raises:
        ValueError: If the launcher's variables are no whole numbers.
    """
    if not all(os.environ.get(name) for name in _VARIABLES):
        return 1
    return max(1, _number("WORLD_SIZE"))


def launched_rank() -> int:
    """Return this process's number among them; 0 without a launcher.

    Raises:
        ValueError: If the launcher's variables are no whole numbers.
    """
    return _number("RANK") if launched_size() > 1 else 0


def refuse_launcher(command: str) -> None:
    """Refuse a command that several processes would do over each other.

    Raises:
        ValueError: If a launcher has started more than one process.
    """
    if launched_size() > 1:
        raise ValueError(
            f"torchrun starts {launched_size()} processes of gstds {command}, which is for one; "
            "train by gstds run, or start it without torchrun (--workers and --ray do many runs)"
        )


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit():
        raise ValueError(f"environment variable {name} must be a whole number, got {text!r}")
    return int(text)
