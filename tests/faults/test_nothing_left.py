"""What is refused leaves nothing behind; a full disk is told before training, or loses nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gstds.train.cli.main import main
from gstds.train.running.options import config_from
from gstds.train.running.run import RunFailedError, execute


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def refused(capsys, *words):
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def options(tiny_npz, **more):
    return config_from({"dataset": tiny_npz, "policy": "random", "batch_size": 32, **more})


@pytest.mark.parametrize("command", [["run", "--policy"], ["compare", "--policies"]])
def test_unusable_data_makes_no_store(here, capsys, command):
    np.savez("float.npz", X=np.zeros((40, 8, 8)), y=np.arange(40) % 4)
    assert "uint8" in refused(capsys, *command, "random", "--dataset", "npz:float.npz", "--quiet")
    assert [path.name for path in here.iterdir()] == ["float.npz"]


PLUGINS = """
import torch
def data(): raise RuntimeError("no luck")
def network(shape, classes): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5, 2))
def no_network(shape): raise KeyError("depth")
def reference(): raise RuntimeError("no luck")
def stumbles(): return lambda images: 1 / 0
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "mine:data"], "dataset 'mine:data' raised RuntimeError: no luck"),
        (["--learner", "mine:network"], "learner 'mine:network', on 4 images of shape (1, 8, 8)"),
        (["--learner", "mine:no_network"], "learner 'mine:no_network' raised KeyError: 'depth'"),
        (["--reference", "mine:reference"], "reference 'mine:reference' raised RuntimeError"),
        (["--reference", "mine:stumbles"], "reference 'mine:stumbles' raised ZeroDivisionError"),
        (["--dataset", "wrong:data"], "dataset 'wrong:data' cannot be imported: SyntaxError"),
        (["--learner", "wrong:data"], "learner 'wrong:data' cannot be imported: SyntaxError"),
        (["--reference", "wrong:data"], "reference 'wrong:data' cannot be imported: SyntaxError"),
        (["--reference", "checkpoint:noise.pt"], "checkpoint noise.pt: damaged"),
    ],
)
def test_a_users_code_that_fails_is_told_by_name(here, capsys, monkeypatch, words, message):
    monkeypatch.syspath_prepend(here)
    for name in ("mine", "wrong"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (here / "mine.py").write_text(PLUGINS)
    (here / "wrong.py").write_text("def data(:")
    (here / "noise.pt").write_text("junk")
    before = {path.name for path in here.iterdir()}
    policy = "gstds" if "--reference" in words else "random"
    assert message in refused(capsys, "run", "--policy", policy, "--quiet", *words)
    assert {path.name for path in here.iterdir()} - {"__pycache__"} == before


def test_a_disk_without_room_is_told_before_training(tiny_npz, tmp_path, monkeypatch):
    room = SimpleNamespace(free=400_000)
    monkeypatch.setattr("gstds.train.running.folder.shutil.disk_usage", lambda folder: room)
    with pytest.raises(OSError, match=r"--out .*no space on the disk, 0\.4 MB free and up to 1\."):
        execute(options(tiny_npz), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_writes_no_more_than_it_asks_for(tiny_npz, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "gstds.train.running.run.check_space", lambda folder, needed: asked.append(needed)
    )
    execute(options(tiny_npz, epochs=4, optimizer="adamw"), tmp_path, checkpoint_every=5)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 0.2 * asked[0] < written < asked[0]


def test_a_folder_on_a_full_disk_is_refused_and_left_as_it_was(here, capsys, tiny_npz, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gstds.train.terminal.options.tempfile.TemporaryFile", full)
    error = refused(capsys, "run", "--no-tracking", "--dataset", tiny_npz, "--out", "a/b")
    assert "--out 'a/b' cannot be written (No space left on device); name another folder" in error
    assert not (here / "a").exists()


def test_pictures_that_find_no_room_cost_no_result(tiny_npz, tmp_path, monkeypatch, caplog):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gstds.train.running.record.write_bytes", full)
    assert execute(options(tiny_npz, epochs=1), tmp_path)["status"] == "finished"
    assert json.loads((tmp_path / "result.json").read_text())["test_accuracy"] is not None
    assert "plots and kept samples were not written" in caplog.text


def test_a_result_that_finds_no_room_is_a_failed_run_with_the_way_on(
    tiny_npz, tmp_path, monkeypatch
):
    def full(path, value):
        assert path.name == "result.json"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("gstds.train.running.record.pending_json", full)
        with pytest.raises(RunFailedError, match=r"result\.json cannot be written.*--resume"):
            execute(options(tiny_npz, epochs=2), tmp_path / "r", checkpoint_every=3)
    again = execute(options(tiny_npz, epochs=2), tmp_path / "r", resume=True)
    assert (again["status"], again["steps"]) == ("finished", 10)


def test_a_screen_that_knows_no_greek_is_no_error():
    for words in (["list", "schedules"], ["compare", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "gstds.train.cli.main", *words],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()


COMMANDS = ("run", "compare", "features", "report", "ui", "sync", "list", "doctor", "learn", "data")


@pytest.mark.parametrize("words", [[], ["data", "fetch"], *([name] for name in COMMANDS)])
def test_every_help_has_an_example_that_can_be_copied(words, capsys):
    from gstds.train.cli.main import build_parser

    with pytest.raises(SystemExit):
        main([*words, "--help"])
    line = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert line.startswith("example: gstds ")
    build_parser().parse_args(line.removeprefix("example: gstds ").split())


def test_the_ui_of_a_store_that_is_not_there_is_not_made(here, capsys):
    assert "nothing was tracked in sqlite" in refused(capsys, "ui")
    assert not list(here.iterdir())
