"""The options of an environment, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gstds.common.checks import check_choice
from gstds.envs.task.rewards import REWARDS
from gstds.observation.spec import check_observe
from gstds.options.world import StepOptions, WorldOptions
from gstds.store.compression import parse_compression

DEFAULT_OBSERVE = ("spectral_scores", "reference_losses")


def normalize_observe(
    observe: Sequence[str] | Mapping[str, Mapping[str, Any] | None] | None,
) -> dict[str, dict[str, Any]]:
    """Return the optional observations as name -> options, in a fixed order.

    Args:
        observe: Names, or names with options; None is spectral scores and reference losses.

    Raises:
        ValueError: If a name or an option is unknown.
    """
    if observe is None:
        observe = DEFAULT_OBSERVE
    if isinstance(observe, str):
        observe = (observe,)
    given = dict(observe) if isinstance(observe, Mapping) else dict.fromkeys(observe)
    return check_observe("observe", given)


@dataclass(frozen=True, kw_only=True)
class EnvOptions(StepOptions, WorldOptions):
    """Keyword arguments of ``gstds/DataSelection-v0``, see docs/options.md.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of range.
    """

    def __post_init__(self) -> None:
        """Check every option that can be checked without data."""
        super().__post_init__()
        parse_compression(self.compress)
        check_choice("reward", self.reward, REWARDS)
        object.__setattr__(self, "observe", normalize_observe(self.observe))

    def draws_allowed(self, total_steps: int) -> int:
        """Return after how many drawn batches a run is cut off.

        Unless ``max_draws`` says it, four times what a keep ratio of 0.1 needs under equal-budget.
        """
        if self.setting == "equal-epochs":
            return total_steps
        return self.max_draws or math.ceil(40.0 * self.budget * total_steps)
