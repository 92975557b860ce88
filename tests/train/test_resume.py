"""``--resume`` needs no other option, and takes none that would change the run."""

from __future__ import annotations

import json

import pytest

from gstds.state import latest_state, save_state
from tests.stops import StopAfter
from train.cli import main
from train.config import config_from
from train.mlflow_store import client
from train.run import StopFlag, execute
from train.tracking import MlflowTracker


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
            patch.setattr("train.run.StopFlag", Soon)
            assert main(["run", *options, "--epochs", "3", "--out", "r", *words]) == 130

    return stopped


def test_a_resumed_run_goes_on_with_its_own_record(here, stopped, store_uri, capsys):
    stopped("--tracking-uri", store_uri, "--experiment", "mine")
    run_id = json.loads((here / "r" / "result.json").read_text())["run_id"]
    assert main(["run", "--resume", "r", "--quiet"]) == 0
    assert not (here / "mlflow.db").exists()
    store = client(store_uri)
    (experiment,) = [e for e in store.search_experiments() if e.name == "mine"]
    (run,) = store.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")


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
    from train.config import config_from
    from train.tracking import MlflowTracker

    tracker = MlflowTracker("http://me:secret@127.0.0.1:9")
    assert tracker.address() == {"uri": None, "experiment": "gstds"}
    options = {"dataset": tiny_npz, "policy": "random", "batch_size": 32}
    with pytest.raises(ConnectionError):
        execute(config_from(options), tmp_path / "r", tracker=tracker)
    assert not (tmp_path / "r").exists()


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


def test_a_run_killed_while_its_record_is_delivered_is_not_yet_done(
    tmp_path, tiny_npz, store_uri, monkeypatch
):
    options = config_from(
        {"dataset": tiny_npz, "policy": "random", "learner": "mlp", "batch_size": 32, "epochs": 3}
    )

    def run(name, resume=False):
        tracker = MlflowTracker(store_uri, spool=tmp_path / name / "spool")
        return execute(options, tmp_path / name, tracker=tracker, resume=resume, checkpoint_every=4)

    def points(run_id):
        store = client(store_uri)
        keys = store.get_run(run_id).data.metrics
        return {key: [p.step for p in store.get_metric_history(run_id, key)] for key in keys}

    def killed(self, status):
        assert not (tmp_path / "cut" / "result.json").exists()
        raise KeyboardInterrupt

    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowTracker, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    assert not list((tmp_path / "cut").glob("*result.json*"))
    cut = run("cut", resume=True)
    assert cut["weights_sha256"] == whole["weights_sha256"]
    assert points(cut["run_id"]) == points(whole["run_id"])
    assert client(store_uri).get_run(cut["run_id"]).info.status == "FINISHED"
