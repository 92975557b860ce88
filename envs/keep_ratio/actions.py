"""The actions of an agent that sets the keep ratio: a position in a list, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from gstds.common.checks import check_choice, check_fraction

__all__ = ["RATIOS", "RatioActions"]

RATIOS = (0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)
"""The nine keep ratios of the default action space: finer where a step more matters more."""


class RatioActions:
    """Turns actions into keep ratios.

    Args:
        kind: ``discrete`` or ``box``.
        ratios: Keep ratios in [0, 1] of the discrete actions; None is `RATIOS`.

    Raises:
        ValueError: If the kind is unknown, or there are fewer than two ratios or one is no share.

    Attributes:
        space: The action space.
    """

    def __init__(self, kind: str, ratios: Sequence[float] | None = None) -> None:
        self.kind = check_choice("action", kind, ("discrete", "box"))
        self.ratios = tuple(check_fraction("ratios", r) for r in (ratios or RATIOS))
        if len(self.ratios) < 2:
            raise ValueError(f"ratios must hold at least two keep ratios, got {self.ratios}")
        self.space: spaces.Space[Any] = (
            spaces.Discrete(len(self.ratios))
            if kind == "discrete"
            else spaces.Box(-1.0, 1.0, (1,), np.float32)
        )

    def ratio(self, action: Any) -> float:
        """Return an action's keep ratio in [0, 1].

        Raises:
            ValueError: If the action is outside the space.
        """
        value = np.asarray(action, dtype=np.float64).reshape(-1)
        if len(value) != 1 or not np.isfinite(value[0]):
            raise ValueError(f"action must be one finite number, got {action!r}")
        number = float(value[0])
        if self.kind == "box":
            if not -1.0 - 1e-6 <= number <= 1.0 + 1e-6:
                raise ValueError(f"action must be in [-1, 1], got {number}")
            return min(1.0, max(0.0, (1.0 + number) / 2.0))
        if not number.is_integer() or not 0 <= number < len(self.ratios):
            raise ValueError(f"action must be in 0 ... {len(self.ratios) - 1}, got {action!r}")
        return self.ratios[int(number)]

    def action(self, ratio: float) -> Any:
        """Return the action of a keep ratio in [0, 1]; of the nearest one where they are listed."""
        check_fraction("keep_ratio", ratio)
        if self.kind == "box":
            return np.array([2.0 * ratio - 1.0], dtype=np.float32)
        return int(np.argmin([abs(ratio - known) for known in self.ratios]))
