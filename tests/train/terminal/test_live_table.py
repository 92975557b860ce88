from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gstds.train.launching.jobs import Job
from gstds.train.running.options import RunConfig
from gstds.train.terminal import console
from gstds.train.terminal.live_table import Board


def job(policy, seed):
    return Job(
        label=policy, config=RunConfig(policy="random", seed=seed), folder=Path(f"{policy}-{seed}"),
        tracking=None, experiment="gstds", tags={}, checkpoint_every=0, command="", threads=1,
    )  # fmt: skip


JOBS = [job("random@keep=.4", 0), job("full", 0)]
DONE = {"status": "finished", "test_accuracy": 0.8765, "val_accuracy": 0.9}


def drawn(table):
    screen = Console(file=io.StringIO(), width=100)
    screen.print(table)
    return screen.file.getvalue()


def test_the_table_shows_each_run():
    one = Board()
    one.expect(JOBS)
    one.moved(JOBS[0], "training", 29, 120, 0.4321)
    one.moved(JOBS[0], "training", 30, 120)
    shown = drawn(one.table())
    line = next(line for line in shown.splitlines() if "random@keep=.4" in line)
    for cell in ("running", "25%", "43.21"):
        assert cell in line
    assert "0 of 2 runs done" in shown
    one.ended(JOBS[0], DONE)
    assert "1 of 2 runs done" in drawn(one.table())


def test_a_tall_table_keeps_what_runs_and_what_ended_last():
    jobs = [job("full", seed) for seed in range(100)]
    one = Board(quiet=True)
    one.expect(jobs)
    for done in jobs[:60]:
        one.ended(done, DONE)
    one.moved(jobs[70], "training", 1, 2)
    lines = drawn(one.table()).splitlines()
    seeds = [line.split()[1] for line in lines if line.startswith("full ")]
    assert len(seeds) == 24
    assert "70" in seeds
    assert "59" in seeds
    assert "0" not in seeds


def test_without_a_terminal_a_line_for_each_run_that_ended(capsys):
    with Board() as one:
        one.expect(JOBS)
        one.moved(JOBS[0], "training", 1, 2)
        one.ended(JOBS[0], DONE)
        one.ended(JOBS[1], {"status": "failed", "error": "on purpose"}, old=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[1/2] random@keep=.4 seed 0: finished, test accuracy 87.65%, validation 90.00%",
        "[2/2] full seed 0: failed, on purpose",
    ]


def test_without_a_terminal_a_line_a_minute(capsys, monkeypatch):
    one = Board()
    one.expect(JOBS)
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    one.moved(JOBS[1], "training", 1, 2)
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 60.0)
    one.moved(JOBS[1], "training", 2, 2)
    assert capsys.readouterr().err == "0 of 2 runs done; full seed 0 training 50%\n"


@pytest.mark.parametrize("quiet", [True, False])
def test_a_terminal_gets_a_live_table_and_no_lines(monkeypatch, quiet):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Board(quiet=quiet) as one:
        one.expect(JOBS)
        one.moved(JOBS[0], "training", 1, 2)
        one.ended(JOBS[1], DONE)
    shown = screen.getvalue()
    assert ("1 of 2 runs done" in shown) is not quiet
    assert "[1/2]" not in shown
    assert not quiet or not shown
