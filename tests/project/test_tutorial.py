"""docs/tutorial.md is done from top to bottom, and shows what came of it.

``python -m tests.project.test_tutorial`` does it too, and writes into the page what it gave.
Accuracies, tests and seconds vary between machines: tables are compared by their other columns.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gstds.train.cli.main import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "tutorial.md"
PART = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n)?"
    r"(?:```(?P<kind>\w*)\n(?P<text>.*?)```|!\[[^\]]*\]\((?P<image>[^)]+)\))",
    re.DOTALL,
)
VARIES = {"accuracy %", "diff", "p Holm", "p flip", "seconds", "s / full"}


def done(text: str) -> str:
    """Type the commands of a block, or run its program; return what was printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for line in text.splitlines():
            words = shlex.split(line)[1:]
            # Half a minute: networks are exported into MLflow, which test_logged_model.py tests.
            words += ["--no-model"] if words[0] == "compare" else []
            assert main(words) == 0, line
    return out.getvalue()


def ran(text: str) -> str:
    """Save a program that begins with its file's name, or run it; return what it printed."""
    name = re.match(r"# (\w+\.py)\n", text)
    if name:
        Path(name.group(1)).write_text(text.partition("\n")[2])
        return ""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, PAGE.name, "exec"), {})  # noqa: S102
    return out.getvalue()


def follow(page: str, images: Path) -> str:
    """Do what a page says in the working folder; return it with what came of that."""
    shown, parts, at = "", [], 0
    for part in PART.finditer(page):
        parts.append(page[at : part.start()])
        at, note = part.end(), part["note"] or ""
        text = part.group()
        if note.startswith("from "):
            shutil.copy(note.removeprefix("from ").strip(), images / Path(part["image"]).name)
        elif part["kind"] == "text":
            lines = [line.rstrip() for line in shown.rstrip().split("\n")]
            text = "\n".join(["```text", *lines, "```"])
        elif part["kind"] is not None and not note:
            shown = ran(part["text"]) if part["kind"] == "python" else done(part["text"])
        parts.append(text)
    return "".join([*parts, page[at:]])


def same_everywhere(page: str) -> list[list[str]]:
    """Return a page's lines as words, without what varies between machines."""
    rows, columns = [], []
    for line, below in zip((lines := page.splitlines()), [*lines[1:], ""], strict=True):
        if re.fullmatch(r"-+(  -+)+", below):
            columns = [(m.start(), m.end()) for m in re.finditer("-+", below)]
            names = [line[a:b].strip() for a, b in columns]
        if not line:
            columns = []
        if columns and not line.startswith("--"):
            cells = zip(names, (line[a:b].strip() for a, b in columns), strict=True)
            rows.append([name if name in VARIES else cell for name, cell in cells])
        elif not line.startswith("--"):
            rows.append(re.sub(r"[\d.]+ ms", "some ms", line).split())
    return rows


def alike(one: Path, other: Path) -> float:
    """Return the share of what is drawn in either of two plots that is drawn in both."""
    first, second = (
        np.asarray(Image.open(path).convert("L").resize((300, 130))) < 200 for path in (one, other)
    )
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.slow
def test_the_tutorial_gives_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made = follow(PAGE.read_text(), tmp_path)
    assert same_everywhere(made) == same_everywhere(PAGE.read_text())
    for image in tmp_path.glob("*.png"):
        assert alike(image, DOCS / "images" / image.name) > 0.3


def test_what_varies_is_set_apart_and_nothing_else():
    table = "policy  accuracy %   keep\n------  ----------  -----\nfull          {}  {}\n"
    assert same_everywhere(table.format("91.1", "1.000")) == same_everywhere(
        table.format("92.3", "1.000")
    )
    assert same_everywhere(table.format("91.1", "1.000")) != same_everywhere(
        table.format("91.1", "0.500")
    )


def test_another_plot_is_not_alike():
    assert alike(DOCS / "images" / "tutorial-accuracy.png", DOCS / "images" / "packed.png") < 0.2


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        PAGE.write_text(follow(PAGE.read_text(), DOCS / "images"))
