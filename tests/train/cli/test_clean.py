"""`gstds clean` shows, and deletes only when told."""

from __future__ import annotations

import os
import time

import pytest

from gstds.common.files import locked
from gstds.train.cli.main import main

PLUGIN = """
from gstds import KeepRatioPolicy

class Mine(KeepRatioPolicy):
    def keep_ratio(self, observation):
        return {ratio}
"""


@pytest.fixture
def here(tmp_path, tiny_npz, monkeypatch):
    """A comparison whose plug-in was edited in between, and a cache of two stores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    words = ["compare", "--policies", "random", "mine_to_clean:Mine", "--seeds", "1", "--dataset"]
    words += [tiny_npz, "--epochs", "2", "--batch-size", "32", "--learner", "mlp", "--quiet"]
    words += ["--no-tracking", "--checkpoint-every", "2", "--no-controls"]
    for ratio in (0.5, 0.6):
        (tmp_path / "mine_to_clean.py").write_text(PLUGIN.format(ratio=ratio))
        assert main([*words, "--out", "runs/c"]) == 0
    for name, age in (("old", 40), ("new", 1)):
        store = tmp_path / "cache" / "features" / name
        store.mkdir(parents=True)
        (store / "features.npy").write_bytes(b"x" * 1000)
        then = time.time() - age * 86_400
        for path in (store / "features.npy", store):
            os.utime(path, (then, then))
    return tmp_path


def folders(here):
    return sorted(p.name for p in (here / "runs" / "c" / "runs").iterdir())


def test_it_shows_and_deletes_only_when_told(here, capsys):
    before = folders(here)
    assert len(before) == 3
    assert main(["clean"]) == 0
    said = capsys.readouterr().out
    assert said.count("run that its comparison holds no more") == 1
    assert said.count("checkpoints of a run that has ended") == 2
    assert said.count("features that were not used for 30 days") == 1
    assert "nothing was deleted" in said
    assert folders(here) == before
    assert main(["clean", "--yes"]) == 0
    assert len(folders(here)) == 2
    assert not list(here.rglob("checkpoints"))
    stores = {p.name for p in (here / "cache" / "features").iterdir()}
    assert "new" in stores
    assert "old" not in stores
    capsys.readouterr()
    assert main(["clean"]) == 0
    assert capsys.readouterr().out.strip() == "0 folders, 0.0 MB"
    # What is left is whole: the comparison finds its runs done.
    assert all(
        (here / "runs" / "c" / "runs" / name / "result.json").exists() for name in folders(here)
    )


def test_what_somebody_works_in_is_left_alone(here, capsys):
    for name in folders(here):
        path = here / "runs" / "c" / "runs" / name / "run.lock"
        with locked(path):
            assert main(["clean"]) == 0
            assert name + "/checkpoints" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "folder 'nowhere' is not there"),
        ([".", "--days", "-1"], "days must be at least 0, got -1.0"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert main(["clean", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_trials_of_a_tuning_are_held(tiny_npz, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    words = ["compare", "--policies", "random", "--tune", "learning_rate=.05,.1", "--seeds", "1"]
    words += ["--dataset", tiny_npz, "--epochs", "1", "--batch-size", "32", "--learner", "mlp"]
    words += ["--no-tracking", "--no-controls", "--tune-seeds", "1", "--quiet", "--out", "runs/t"]
    assert main(words) == 0
    assert len(list((tmp_path / "runs" / "t" / "runs").iterdir())) > 2
    capsys.readouterr()
    assert main(["clean"]) == 0
    assert "its comparison holds no more" not in capsys.readouterr().out


def test_a_folder_is_a_runs_or_a_comparisons(here, tiny_npz, capsys):
    words = ["--dataset", tiny_npz, "--epochs", "1", "--batch-size", "32", "--learner", "mlp"]
    words += ["--no-tracking", "--quiet", "--out"]
    assert main(["run", "--policy", "random", *words, "runs/c"]) == 2
    assert "--out 'runs/c' holds a comparison; name another folder" in capsys.readouterr().err
    assert main(["run", "--policy", "random", *words, "runs/one"]) == 0
    assert main(["compare", "--policies", "random", *words, "runs/one"]) == 2
    assert "--out 'runs/one' holds a run; name another folder" in capsys.readouterr().err
    assert main(["kept", "runs/c"]) == 2
    assert "is a comparison; name one of the runs in runs/c/runs" in capsys.readouterr().err
    assert main(["predict", "runs/one", "absent.png"]) == 2
    assert "input 'absent.png' is not there" in capsys.readouterr().err
