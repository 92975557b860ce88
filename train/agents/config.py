"""What an agent learns: the options of ``gstds learn``. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gstds.common.checks import check_choice
from gstds.options.fields import Options, from_keywords, option
from gstds.options.world import KeepRatioOptions


@dataclass(frozen=True, kw_only=True)
class AgentConfig(Options):
    """Agent.

    Attributes:
        env: Further keyword arguments of ``gstds/KeepRatio-v0``.

    Raises:
        ValueError: If the agent is unknown, an option is out of range, or the held-out instances
            are those learned on.
        TypeError: If an option has the wrong type.
    """

    agent: str = option("ppo", "ppo, a2c, dqn, sac, recurrent-ppo")
    agent_params: dict[str, Any] = option({}, "parameters of the library's class")
    steps: int = option(20_000, "decisions to learn from", "[1, inf)")
    seed: int = option(0, "seed of the agent", "[0, 2147483647]")
    instances: Any = option("small-train", "set to learn on, or a JSON list")
    held_out: Any = option("small-held-out", "set to choose on, or a JSON list", metavar="HELD_OUT")
    action: str | None = option(None, "discrete or box (default: what suits the agent)")
    evaluate_every: int = option(2_000, "decisions between evaluations", "[1, inf)")
    shuffle_rewards: bool = option(False, "a control: rewards in any order", flag=True)
    env: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the options."""
        from gstds.train.agents.models import AGENTS

        super().__post_init__()
        algorithm = AGENTS[check_choice("agent", self.agent, AGENTS)]
        if self.action is None:
            object.__setattr__(self, "action", algorithm.action)
        if self.instances == self.held_out:
            raise ValueError(
                f"held_out must not be the instances learned on, got {self.held_out!r} for both"
            )
        from_keywords(KeepRatioOptions, self.env, "KeepRatioEnv.__init__")
