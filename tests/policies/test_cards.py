from __future__ import annotations

from pathlib import Path

import pytest

from policies import Policy
from policies.cards import card, cards, main
from policies.registry import POLICIES

FOLDER = Path(__file__).parents[2] / "docs" / "policies"


def test_the_cards_in_the_docs_are_those_of_the_classes():
    assert main([str(FOLDER), "--check"]) == 0, "run: python -m policies.cards docs/policies"
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

    monkeypatch.setattr("policies.cards.policy_class", lambda name: Silent)
    monkeypatch.setattr("policies.cards.make_policy", lambda name: Silent())
    with pytest.raises(ValueError, match=r"source of policy 'silent' is empty"):
        card("silent")


def test_every_policy_has_a_card():
    assert set(cards()) == {f"{name}.md" for name in POLICIES} | {"README.md"}
