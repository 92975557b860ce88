"""What the docs tell a reader to type is typed here."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from gstds.train.cli.main import build_parser, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "mlflow" / "README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[str]:
    """Return the lines of a page that begin with gstds, in blocks and within the text."""
    lines = [line for text in blocks(page, "") for line in text.replace("\\\n", " ").split("\n")]
    found = [line.strip() for line in lines if line.startswith("gstds ")]
    inside = re.sub(BLOCK, "", page.read_text())
    return found + re.findall(r"`(gstds [^`]+)`", inside)


# The page of errors holds what is refused; test_errors_page.py checks it.
ALL = sorted(
    (page.relative_to(ROOT).as_posix(), command)
    for page in PAGES
    if page.name != "errors.md"
    for command in set(commands(page))
)
# An agent has to be taught first, a run to be stopped: test_agents.py and test_resume.py do that.
_NEED_MORE = ("learned:", "--resume")
RUNS = [
    (page, command)
    for page, command in ALL
    if command.startswith("gstds run --") and not any(word in command for word in _NEED_MORE)
]


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)[1:]


def test_the_docs_have_commands():
    assert len(ALL) > 20
    assert len(RUNS) > 6


@pytest.mark.parametrize(("page", "command"), ALL)
def test_every_command_is_one(page, command):
    build_parser().parse_args(words(command))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that holds the plug-ins of README and of the examples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = next(text for text in blocks(ROOT / "README.md", "python") if "my_file.py" in text)
    example = (ROOT / "examples" / "follow_the_loss.py").read_text()
    for name, text in {"my_file": own, "follow_the_loss": example}.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def quickly(page: str, command: str) -> list[str]:
    less = ["--limit", "256", "--batch-size", "32", "--epochs", "2", "--no-tracking", "--quiet"]
    return [*words(command), *less]


@pytest.mark.parametrize(("page", "command"), [r for r in RUNS if r[0] == "README.md"])
def test_the_runs_of_the_readme_run(folder, page, command):
    assert main(quickly(page, command)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), [r for r in RUNS if r[0] != "README.md"])
def test_the_runs_of_the_docs_run(folder, page, command):
    assert main(quickly(page, command)) == 0


def test_the_comparison_of_the_readme_ends_with_the_plug_ins_row(folder, capsys):
    command = next(c for p, c in ALL if p == "README.md" and "compare" in c and "my_file" in c)
    assert main([*quickly("README.md", command), "--seeds", "2"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("gstds", "random", "my_file:FollowTheLoss"))


def snippets(language: str = "python") -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", ROOT / "docs" / "agents.md"]
    return [(page.name, text) for page in pages for text in blocks(page, language)]


@pytest.mark.parametrize(("page", "text"), snippets())
def test_the_python_of_the_readme_runs(page, text, tmp_path):
    from gstds.store.from_images import prepare_store

    images = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
    names = {"indices": np.arange(32), "losses": np.ones(32), "total_steps": 10}
    if "Selector(" in text:
        names["store"] = prepare_store(tmp_path / "store", images, np.arange(64) % 2)
        text = text.replace("losses)", "losses[: len(kept)])")
    text = text.replace('dataset="digits"', 'dataset="digits", limit=256')
    exec(compile(text, page, "exec"), names)  # noqa: S102
    if "kept, weights" in text:
        assert 0 < len(names["kept"]) == len(names["weights"]) <= 32
    if "env.step" in text:
        assert np.isfinite(names["reward"])
