"""train/cli/names.json is what the tables say; this file is run by itself to write it anew."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from gstds.envs.data.datasets import dataset_names
from gstds.envs.learner.models import LEARNERS
from gstds.observation.spec import observation_names
from gstds.policies.learned.agent_file import shipped_agents
from gstds.policies.registry import installed_policies, policy_names
from gstds.reference import reference_names
from gstds.selection.pickers import PICKERS, SCORES
from gstds.selection.schedules import SCHEDULES
from gstds.train.agents.models import AGENTS
from gstds.train.cli.listed import NAMES, listed
from gstds.train.comparing.comparison import PRESETS

FILE = Path(__file__).parents[3] / "train" / "cli" / "names.json"


def first_line(what: Any) -> str:
    return (inspect.getdoc(what) or "").partition("\n")[0]


def tables() -> dict[str, dict[str, str]]:
    own = {n: text for n, text in policy_names().items() if n not in installed_policies()}
    agents = {name: f"algorithm: {agent.text}" for name, agent in AGENTS.items()}
    agents |= {f"learned:{name}": f"policy: {text}" for name, text in shipped_agents().items()}
    return {
        "policies": own,
        "schedules": {name: first_line(kind) for name, kind in SCHEDULES.items()},
        "scores": {name: score.text for name, score in SCORES.items()},
        "pickers": {name: picker.text for name, picker in PICKERS.items()},
        "datasets": dataset_names(),
        "learners": {name: text for name, (_, text) in LEARNERS.items()},
        "references": reference_names(),
        "agents": agents,
        "observations": observation_names(),
        "presets": {name: preset["question"] for name, preset in PRESETS.items()},
    }


def test_the_names_are_those_of_the_tables():
    assert tables() == NAMES, "run: python -m tests.train.cli.test_listed"
    assert [list(names) for names in tables().values()] == [list(n) for n in NAMES.values()]
    assert list(listed("policies")) == list(policy_names())


if __name__ == "__main__":
    FILE.write_text(json.dumps(tables(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
