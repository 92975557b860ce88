"""The agents that come with the project. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

from gstds.common.checksummed_json import read_sealed

__all__ = ["SHIPPED", "shipped_agents"]

SHIPPED = Path(__file__).resolve().parent / "agents"


def shipped_agents() -> dict[str, str]:
    """Return the agents that come with the project, with one line of description each."""
    names = {}
    for path in sorted(SHIPPED.glob("*/agent.json")):
        training = read_sealed(path).get("training", {})
        names[path.parent.name] = str(training.get("description", "no description"))
    return names
