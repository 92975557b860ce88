"""What the docs tell a reader to type is typed here."""

from __future__ import annotations

import importlib
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


@pytest.mark.slow
def test_the_comparison_of_the_readme_ends_with_the_plug_ins_row(folder, capsys):
    command = next(c for p, c in ALL if p == "README.md" and "compare" in c and "my_file" in c)
    assert main([*quickly("README.md", command), "--seeds", "2"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("gstds", "random", "my_file:FollowTheLoss"))


def snippets(language: str = "python") -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", ROOT / "docs" / "agents.md"]
    return [(page.name, text) for page in pages for text in blocks(page, language)]


@pytest.mark.parametrize(("page", "text"), snippets())
def test_the_python_of_the_readme_runs(page, text, tmp_path, monkeypatch):
    from gstds import prepare_store

    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
    names = {"indices": np.arange(32), "losses": np.ones(32), "total_steps": 10}
    if "Selector(" in text:
        names["store"] = prepare_store(tmp_path / "store", images, np.arange(64) % 2)
        text = text.replace("losses)", "losses[: len(kept)])")
    if "gstds.compare(" in text:
        text = text.replace("seeds=3", "seeds=2, epochs=2").replace("epochs=5", "epochs=2")
    text = text.replace('dataset="digits"', 'dataset="digits", limit=256')
    exec(compile(text, page, "exec"), names)  # noqa: S102
    if "kept, weights" in text:
        assert 0 < len(names["kept"]) == len(names["weights"]) <= 32
    if "env.step" in text:
        assert np.isfinite(names["reward"])
    if "gstds.compare(" in text:
        assert names["result"]["status"] == "finished"
        rows = {row["policy"]: row["n"] for row in names["compared"]["summary"]}
        assert rows == {"gstds": 2, "random": 2, "full": 2}


LOOPS = [
    t for t in blocks(ROOT / "docs" / "drop-in.md", "python") if t.startswith("import torch\n")
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", LOOPS)
def test_the_whole_loops_of_the_docs_train(text):
    """Each runs as it stands, and its loss falls."""
    assert len(LOOPS) == 4
    seen: list[float] = []
    names = {"seen": seen}
    text = text.replace(
        "    optimizer.step()\n",
        "    optimizer.step()\n    seen.append(float(losses.mean().detach()))\n",
    )
    exec(compile("import torch; torch.manual_seed(0)\n" + text, "drop-in.md", "exec"), names)  # noqa: S102
    assert np.mean(seen[-5:]) < np.mean(seen[:5])
    assert 0 < names["selector"].mean_keep <= 1


TOLD = [*PAGES, *(ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md"))]
SPAN = re.compile(r"`([^`\n]+)`")
FOLDERS = "gstds|envs|policies|train|tests|benchmarks|examples|docs|mlflow|\\.ci"
FILE = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*(?:\.\w+|/)|\.ci/\w+|\w+\.py)(?![\w/])")
NAME = re.compile(r"(?<![\w./-])gstds(?:\.[a-zA-Z_]\w*)+(?::[a-zA-Z_]\w*(?![\w/]))?")
IMPORT = re.compile(r"from (gstds[\w.]*) import ([\w, ]+)")
# Files of the reader, and a name that many files have.
YOURS = {"my_file.py", "my_policy.py", "mine.py", "no_such_module.py", "__init__.py"}


def code_of(text: str) -> list[str]:
    """Return what a page sets as code: its blocks, and what stands between backticks."""
    return [*(block for _, block in BLOCK.findall(text)), *SPAN.findall(re.sub(BLOCK, "", text))]


def files_named(text: str) -> set[str]:
    return {name for code in code_of(text) for name in FILE.findall(code)} - YOURS


# A tag of MLflow's, and a misspelt name that docs/errors.md answers.
TAGS = {"gstds.run_id", "gstds.policies.paper:GTSDS"}


def names_named(text: str) -> set[str]:
    names = {name for code in code_of(text) for name in NAME.findall(code)}
    imports = [found for code in code_of(text) for found in IMPORT.findall(code)]
    return names - TAGS | {
        f"{module}.{name.strip()}" for module, row in imports for name in row.split(",")
    }


def is_there(name: str) -> bool:
    """Say whether a path is one of the project; a bare name, of whichever folder."""
    if "/" in name:
        return (ROOT / name).exists()
    folders = ("benchmarks", "examples", "tests")
    return any(file.name == name for folder in folders for file in (ROOT / folder).rglob("*.py"))


def can_be_imported(dotted: str) -> bool:
    parts, value = dotted.replace(":", ".").split("."), None
    for at, part in enumerate(parts):
        if value is not None and hasattr(value, part):
            value = getattr(value, part)
            continue
        try:
            value = importlib.import_module(".".join(parts[: at + 1]))
        except ImportError:
            return False
    return True


@pytest.mark.parametrize("page", TOLD, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(page):
    text = page.read_text()
    assert [name for name in sorted(files_named(text)) if not is_there(name)] == []
    assert [name for name in sorted(names_named(text)) if not can_be_imported(name)] == []


@pytest.mark.parametrize(
    "planted",
    [
        "see `envs/data/dataset.py`",
        "see `no_such_example.py`",
        "```\npython benchmarks/fidler.py --quick\n```",
        "room `train/plots/`",
        "run `.ci/private`",
    ],
)
def test_a_file_that_is_not_there_is_found(planted):
    found = files_named(planted)
    assert found
    assert not any(map(is_there, found))


@pytest.mark.parametrize(
    "planted",
    [
        "`gstds.spectral.fiedler_vektor(x)`",
        "`--dataset gstds.envs.small_sets:fashion_0`",
        "`gstds.envs.task.small_sets:fashion_9`",
        "```python\nfrom gstds import Selektor\n```",
        "```python\nfrom gstds.stores import prepare_store\n```",
        "```\ntorchrun -m gstds.train.main run\n```",
    ],
)
def test_a_name_that_cannot_be_imported_is_found(planted):
    assert any(not can_be_imported(name) for name in names_named(planted))


def test_the_readme_links_every_page():
    linked = set(re.findall(r"\]\(([\w/.-]+)", (ROOT / "README.md").read_text()))
    pages = {page.relative_to(ROOT).as_posix() for page in TOLD} - {"README.md"}
    assert {page for page in pages if not page.startswith("docs/policies/")} <= linked
    assert "docs/policies/README.md" in linked


def test_links_between_pages_lead_somewhere():
    for page in [*TOLD, ROOT / "CHANGELOG.md"]:
        inside = re.sub(BLOCK, "", page.read_text())
        for link in re.findall(r"\]\(([^)#\s]+)", inside):
            assert "://" in link or (page.parent / link).exists(), (page.name, link)


def test_the_rooms_of_the_readme_are_the_rooms():
    rows = re.findall(r"^\| `(\w+)/`.*?\|.*?\| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    told = {
        folder: {words.split()[0].strip("`") for words in cell.split(" · ")}
        for folder, cell in rows
    }
    there = {
        folder: {room.parent.name for room in (ROOT / folder).glob("*/__init__.py")}
        for folder in ("gstds", "envs", "policies", "train")
    }
    assert told == there
