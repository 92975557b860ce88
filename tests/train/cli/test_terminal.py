"""Commands as they look on a terminal: the same words, a pseudo-terminal instead of a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from gstds.train.cli.main import main

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(*words: str, cwd=None) -> tuple[int, str]:
    """Run a command on a pseudo-terminal of 100 columns; return its exit code and what it shows."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm", "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-m", "gstds.train.cli.main", *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        cwd=cwd,
    ) as process:
        os.close(slave)
        shown = bytearray()
        while chunk := _read(master):
            shown += chunk
    os.close(master)
    return process.returncode, _ESCAPES.sub("", shown.decode())


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other side is closed
        return b""


@pytest.fixture
def comparison(tiny_npz, tmp_path, capsys):
    words = ["--policies", "random", "full", "--seeds", "2", "--dataset", tiny_npz]
    words += ["--epochs", "1", "--batch-size", "32", "--no-tracking"]
    return ["compare", *words, "--out", str(tmp_path / "c")]


@pytest.mark.slow
def test_a_comparison_ends_with_its_table(comparison, tmp_path):
    code, shown = on_a_terminal(*comparison)
    assert code == 0, shown
    assert "Traceback" not in shown
    table = shown[shown.index("policy") :]
    assert all(name in table for name in ("random", "full", "accuracy %", "report: "))
    code, shown = on_a_terminal("report", str(tmp_path / "c"))
    assert code == 0, shown
    assert "accuracy %" in shown


def test_a_run_ends_with_its_table(tiny_npz, tmp_path):
    words = ["run", "--policy", "random", "--dataset", tiny_npz, "--epochs", "1", "--no-tracking"]
    code, shown = on_a_terminal(*words, "--batch-size", "32", "--out", str(tmp_path / "r"))
    assert code == 0, shown
    assert "finished" in shown


@pytest.mark.parametrize("kind", ["policies", "schedules", "datasets", "learners", "references"])
def test_a_list_is_for_eyes_on_a_terminal_and_for_programs_elsewhere(kind, capsys):
    code, shown = on_a_terminal("list", kind)
    assert code == 0
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        " ".join(line.split()) for line in lines
    ]
    assert "\t" not in shown
    assert all("\t" in line for line in lines)


def test_bad_input_on_a_terminal_is_one_line_and_code_2():
    code, shown = on_a_terminal("run", "--policy", "gtsds")
    assert (code, shown.count("\n")) == (2, 1)
