"""The files that tools read of the project: pre-commit's hooks, and how to cite it."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from gstds import __version__

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hooks():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    return config["repos"][0]["hooks"]


@pytest.fixture
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_hooks_have_what_pre_commit_asks_for_and_download_nothing(hooks):
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "private-names"]
    for hook in hooks:
        assert {"id", "name", "entry", "language"} <= set(hook)
        assert hook["language"] == "system"
        assert "additional_dependencies" not in hook


def test_hooks_are_the_checks_of_make_lint(hooks):
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    for hook in hooks:
        assert hook["entry"].replace(".venv/bin/", "$(BIN)/") in lint


def test_what_a_hook_starts_is_in_the_project_or_its_environment(hooks):
    for hook in hooks:
        program, *rest = shlex.split(hook["entry"])
        assert re.fullmatch(r"\.venv/bin/(ruff|python)", program)
        assert all((ROOT / word).is_file() for word in rest if "/" in word)


def test_the_citation_has_the_keys_of_its_format(citation):
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["type"] == "software"
    assert citation["authors"] == [{"name": "gstds maintainers"}]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors", "year", "journal"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Sharifi", "Harati"]
    assert all({"type", "value"} <= set(known) for known in paper["identifiers"])


def test_the_citation_says_what_pyproject_says(citation):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for key, other in (("name", "title"), ("version", "version"), ("license", "license")):
        assert citation[other] == project[key]
    assert citation["abstract"] == project["description"]
    assert citation["keywords"] == project["keywords"]
    assert citation["version"] == __version__


def test_the_paper_is_the_one_that_the_readme_names(citation):
    readme = (ROOT / "README.md").read_text()
    paper = citation["preferred-citation"]
    assert paper["url"] in readme
    assert paper["identifiers"][0]["value"].replace(":", " ") in readme
    assert all(author["family-names"] in readme for author in paper["authors"])


def rooms():
    """Each package of the four folders, by its import name."""
    found = {}
    for folder in ("gstds", "envs", "policies", "train"):
        for start in (ROOT / folder).rglob("__init__.py"):
            inside = start.parent.relative_to(ROOT).parts
            found[".".join(inside if folder == "gstds" else ("gstds", *inside))] = start.parent
    return found


def test_every_room_is_installed_and_no_other():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(project["packages"]) == sorted(rooms())


def test_a_room_has_at_most_nine_files():
    files = {
        name: [file.name for file in folder.glob("*.py") if file.name != "__init__.py"]
        for name, folder in rooms().items()
    }
    assert {name: found for name, found in files.items() if len(found) > 9} == {}
