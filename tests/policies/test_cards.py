from __future__ import annotations

import json
from pathlib import Path

import pytest

from gstds.policies import Policy
from gstds.policies.registry import POLICIES
from tests.policies.cards import card, cards, main

FOLDER = Path(__file__).parents[2] / "docs" / "policies"


def test_the_cards_in_the_docs_are_those_of_the_classes():
    assert main([str(FOLDER), "--check"]) == 0, "run: python -m tests.policies.cards docs/policies"
    assert {path.name for path in FOLDER.glob("*.md")} == set(cards())


def test_a_card_that_is_out_of_date_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 0
    (tmp_path / "full.md").write_text("old")
    assert main([str(tmp_path), "--check"]) == 1
    said = capsys.readouterr()
    assert "full.md" in said.out + said.err


def test_a_policy_that_does_not_say_what_it_costs_has_no_card(monkeypatch):
    class Silent(Policy):
        """Says nothing of itself."""

    monkeypatch.setattr("tests.policies.cards.policy_class", lambda name: Silent)
    monkeypatch.setattr("tests.policies.cards.make_policy", lambda name: Silent())
    with pytest.raises(ValueError, match=r"source of policy 'silent' is empty"):
        card("silent")


def test_every_policy_has_a_card():
    assert set(cards()) == {f"{name}.md" for name in POLICIES} | {"README.md"}


def test_what_was_measured_is_on_the_card_and_in_the_table():
    spent = {"train": 100.0, "score": 20.0, "spectral": 3.0, "policy": 0.5}
    row = {"keep": 0.5, "megaflops": spent, "relative_time": 0.75}
    how = {"batch": 9, "rounds": 3, "processor": "P", "threads": 1, "torch": "2", "python": "3"}
    pages = cards(how | {"policies": {"divbs": row}})
    said = "training 100, scoring 20, spectral 3, the pick 0.5. 0.75 times"
    assert said in pages["divbs.md"]
    assert "| 124 | 0.75 |" in next(
        line for line in pages["README.md"].splitlines() if "divbs.md" in line
    )
    assert "Measured" not in pages["k-center.md"]
    assert "batches of 9 random images" in pages["README.md"]


def test_every_policy_was_measured():
    measured = json.loads((FOLDER / "measured.json").read_text())
    assert set(measured["policies"]) == set(POLICIES), "run: python benchmarks/policy_cost.py"
