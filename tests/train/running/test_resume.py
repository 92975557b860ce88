"""``--resume`` needs no other option, and takes none that would change the run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gstds.common.state import latest_state, save_state
from gstds.train.cli.main import main
from gstds.train.running.options import config_from
from gstds.train.running.run import StopFlag, execute
from gstds.train.tracking.delivery import read_target
from gstds.train.tracking.store import client
from tests.stops import StopAfter
from tests.stores import delivered


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def stopped(here, monkeypatch, tiny_npz):
    """Start a run by the command line and stop it after a few steps."""

    class Soon(StopFlag):
        left = 6

        @property
        def is_set(self):
            self.left -= 1
            return self.left < 0

        @is_set.setter
        def is_set(self, value):
            pass

    def stopped(*words):
        options = ["--dataset", tiny_npz, "--policy", "random", "--batch-size", "32", "--quiet"]
        with monkeypatch.context() as patch:
            patch.setattr("gstds.train.cli.commands.StopFlag", Soon)
            assert main(["run", *options, "--epochs", "3", "--out", "r", *words]) == 130

    return stopped


def test_a_resumed_run_goes_on_with_its_own_record(here, stopped, store_uri, capsys):
    stopped("--tracking-uri", store_uri, "--experiment", "mine", "--no-model")
    run_id = json.loads((here / "r" / "result.json").read_text())["run_id"]
    assert main(["run", "--resume", "r", "--quiet"]) == 0
    assert not (here / "mlflow.db").exists()
    delivered(store_uri, here / "r")
    store = client(store_uri)
    (experiment,) = [e for e in store.search_experiments() if e.name == "mine"]
    (run,) = store.search_runs([experiment.experiment_id])
    assert (run.data.tags["gstds.run_id"], run.info.status) == (run_id, "FINISHED")


def test_a_run_without_a_record_is_resumed_without_one(here, stopped):
    stopped("--no-tracking")
    assert main(["run", "--resume", "r", "--quiet"]) == 0
    assert not (here / "mlflow.db").exists()


def test_a_changed_option_is_refused_and_an_equal_one_is_not(here, stopped, capsys):
    stopped("--no-tracking")
    capsys.readouterr()
    assert main(["run", "--resume", "r", "--epochs", "4"]) == 2
    assert "goes on with epochs = 3, which the run was started with, got 4" in (
        capsys.readouterr().err
    )
    assert main(["run", "--resume", "r", "--epochs", "3", "--quiet"]) == 0


def test_a_secret_is_not_written_into_the_folder(tiny_npz, tmp_path):
    from gstds.train.running.options import config_from
    from gstds.train.tracking.uploader import Upload

    upload = Upload("http://me:hunter2@127.0.0.1:9")
    assert upload.address() == {"uri": None, "experiment": "gstds"}
    options = {"dataset": tiny_npz, "policy": "random", "batch_size": 32}
    execute(config_from(options), tmp_path / "r", upload=upload)
    for path in (tmp_path / "r").rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def test_a_run_is_resumed_by_its_id(here, tiny_npz, store_uri, capsys):
    words = ["--dataset", tiny_npz, "--policy", "random", "--batch-size", "32", "--quiet"]
    words += ["--tracking-uri", store_uri]
    assert main(["run", *words, "--epochs", "1", "--out", "runs/r"]) == 0
    run_id = read_target(here / "runs" / "r").run_id
    assert main(["run", "--resume", run_id, "--quiet", "--json", "again.json"]) == 0
    assert json.loads((here / "again.json").read_text())["runs"][0]["run_id"] == run_id


def test_looking_for_a_run_makes_no_store(here, capsys):
    assert main(["run", "--resume", "0" * 32]) == 2
    assert "neither a folder nor the id of a run" in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.parametrize(("before", "warned"), [(2, True), (1, False)])
def test_another_number_of_processes_is_said(tmp_path, tiny_npz, caplog, before, warned):
    config = config_from({"dataset": tiny_npz, "policy": "random", "batch_size": 32})
    execute(config, tmp_path, stop=StopAfter(6), checkpoint_every=1)
    checkpoints = tmp_path / "checkpoints"
    state = latest_state(checkpoints)
    save_state(checkpoints, state["env"]["step_count"] + 1, state | {"processes": before})
    assert execute(config, tmp_path, resume=True)["status"] == "finished"
    assert ("begun by 2 processes and goes on with 1" in caplog.text) == warned


KILLED = """
import os, sys
from gstds.train.cli.main import main
from gstds.train.tracking.log import RunLog
RunLog.finish = lambda self, status: os._exit(137)
main(sys.argv[1:])
"""


def test_a_run_killed_before_its_log_is_closed_is_not_yet_done(here, tiny_npz, store_uri):
    words = ["run", "--dataset", tiny_npz, "--policy", "random", "--learner", "mlp", "--quiet"]
    words += ["--batch-size", "32", "--epochs", "3", "--checkpoint-every", "4"]
    words += ["--tracking-uri", store_uri, "--no-model"]

    def points(folder):
        result = json.loads((here / folder / "result.json").read_text())
        run, store = delivered(store_uri, here / folder), client(store_uri)
        assert run.info.status == "FINISHED"
        history = {key: store.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        return result["weights_sha256"], {k: [p.step for p in v] for k, v in history.items()}

    assert main([*words, "--out", "whole"]) == 0
    cut = [sys.executable, "-c", KILLED, *words, "--out", "cut"]
    assert subprocess.run(cut, check=False, capture_output=True).returncode == 137
    assert not (here / "cut" / "result.json").exists()
    assert main(["run", "--resume", "cut", "--quiet"]) == 0
    assert points("cut") == points("whole")
