"""The agents that come with the project. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

from gstds.common.checksummed_json import read_sealed

SHIPPED = Path(__file__).resolve().parent / "agents"


def shipped_agents() -> dict[str, str]:
    """Return the agents that come with the project, with one line of description each."""
    notes = {path.parent.name: read_sealed(path) for path in sorted(SHIPPED.glob("*/agent.json"))}
    none = "no description"
    return {name: str(note["training"].get("description", none)) for name, note in notes.items()}
