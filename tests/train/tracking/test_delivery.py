"""From logs to a real store: whole, in order, once."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds.train.tracking.delivery import Delivery, note_target, read_target
from gstds.train.tracking.log import LOG_NAME, RunLog
from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.uploader import Upload, sync
from tests.stores import delivered, history

NO_ROOM = "CREATE TRIGGER no_room BEFORE INSERT ON metrics BEGIN SELECT RAISE(FAIL, 'no room'); END"
DATA = {
    "name": "digits",
    "digest": "f" * 64,
    "rows": 1257,
    "classes": 10,
    "shape": (8, 8, 1),
    "source": "http://me:secret@host/digits",
}


def begun(folder, uri, *, resume=False, experiment="gstds", **options):
    """Return a log whose delivery was asked for."""
    log = RunLog(folder)
    options = {"name": "test", "params": {}, "tags": {}, **options}
    Upload(uri, experiment).begin(folder, log.begin(**options, resume=resume))
    return log


def log_steps(log, *steps):
    for step in range(*steps):
        log.log({"train/loss": float(step)}, step)


def all_runs(uri):
    experiment = make_client(uri).get_experiment_by_name("gstds")
    return make_client(uri).search_runs([experiment.experiment_id])


def test_a_run_arrives_whole(store_uri, tmp_path):
    folder = tmp_path / "r"
    log = begun(
        folder,
        store_uri,
        params={"epochs": 3, "long": "x" * 6001, "nested": {"a": [1]}, "uri": "http://u:pw@h"},
        tags={"policy": "gstds", "long": "y" * 8001},
        description="# A run",
        data=DATA,
    )
    for step in range(2500):
        log.log({"train/loss": float(step), "val/accuracy": step / 2500}, step)
    log.log({"val/loss": math.nan}, 7)
    (folder / "plot.png").write_bytes(b"picture")
    log.log_file(folder / "plot.png", "plots")
    log.finish("finished")
    assert sync(tmp_path) == {str(folder): 5001}
    assert sync(tmp_path) == {}

    client = make_client(store_uri)
    run = delivered(store_uri, folder)
    assert history(store_uri, folder) == [(i, float(i)) for i in range(2500)]
    assert len(history(store_uri, folder, "val/accuracy")) == 2500
    ((_, value),) = history(store_uri, folder, "val/loss")
    assert math.isnan(value)
    assert run.info.status == "FINISHED"
    assert run.info.start_time <= run.info.end_time
    assert run.data.params["epochs"] == "3"
    assert run.data.params["nested"] == '{"a": [1]}'
    assert run.data.params["uri"] == "http://***@h"
    assert run.data.tags["status"] == "finished"
    assert run.data.tags["gstds.run_id"] == log.run_id
    assert run.data.tags["mlflow.note.content"] == "# A run"
    assert run.data.tags["mlflow.runColor"].startswith("#")
    run_id = run.info.run_id
    for kind, letter, length in (("params", "x", 6001), ("tags", "y", 8001)):
        local = client.download_artifacts(run_id, f"{kind}/long.txt", str(tmp_path))
        with open(local) as handle:
            assert handle.read() == letter * length
        shown = run.data.params if kind == "params" else run.data.tags
        assert f"{kind}/long.txt" in shown["long"]
    (given_data,) = run.inputs.dataset_inputs
    assert given_data.dataset.name == "digits"
    assert "secret" not in given_data.dataset.source
    assert json.loads(given_data.dataset.profile)["rows"] == 1257
    assert [a.path for a in client.list_artifacts(run_id, "plots")] == ["plots/plot.png"]


@pytest.mark.parametrize(
    ("status", "shown"), [("failed", "FAILED"), ("diverged", "FAILED"), ("interrupted", "KILLED")]
)
def test_statuses(store_uri, tmp_path, status, shown):
    begun(tmp_path / "r", store_uri).finish(status)
    run = delivered(store_uri, tmp_path / "r")
    assert (run.info.status, run.data.tags["status"]) == (shown, status)


@pytest.mark.parametrize("synced", [True, False])
def test_a_resumed_run_goes_on_in_its_own_record(store_uri, tmp_path, synced):
    first = begun(tmp_path / "r", store_uri)
    log_steps(first, 10)
    first.finish("interrupted")
    if synced:
        sync(tmp_path)
    second = begun(tmp_path / "r", store_uri, resume=True)
    log_steps(second, 5, 20)
    if synced:
        assert delivered(store_uri, tmp_path / "r").info.status == "RUNNING"
    second.finish("finished")
    assert delivered(store_uri, tmp_path / "r").info.status == "FINISHED"
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(20)]
    assert len(all_runs(store_uri)) == 1


@given(st.lists(st.integers(1, 12), max_size=6), st.booleans())
@settings(max_examples=5, deadline=None)
def test_a_delivery_cut_off_anywhere_delivers_everything_once(
    mlflow_schema, tmp_path_factory, cuts, noted
):
    place = tmp_path_factory.mktemp("cut")
    shutil.copy(mlflow_schema, place / "mlflow.db")
    uri, folder = f"sqlite:///{place}/mlflow.db", place / "r"
    log = begun(folder, uri, params={"epochs": 3}, tags={"policy": "random"}, data=DATA)
    for step in range(1500):
        log.log({"train/loss": float(step)}, step)
    (folder / "a.txt").write_text("a")
    log.log_file(folder / "a.txt")
    log.finish("finished")
    for cut in cuts:
        delivery = Delivery(folder, uri)
        before = (folder / "delivery.json").read_bytes()
        left = iter([False] * (cut - 1) + [True] * 1000)
        delivery.deliver(stop=left.__next__)
        if not noted:  # killed between the call and the note of it
            (folder / "delivery.json").write_bytes(before)
    run = delivered(uri, folder)
    assert history(uri, folder) == [(i, float(i)) for i in range(1500)]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "3"}
    assert len(run.inputs.dataset_inputs) == 1
    assert len(all_runs(uri)) == 1


def test_a_damaged_note_delivers_again_to_the_same_run(store_uri, tmp_path):
    log = begun(tmp_path / "r", store_uri)
    log_steps(log, 3000)
    log.finish("finished")
    first = delivered(store_uri, tmp_path / "r")
    (tmp_path / "r" / "delivery.json").write_text("{")
    assert sync(tmp_path) == {}  # nobody says where it belongs
    assert sync(tmp_path, store_uri) == {str(tmp_path / "r"): 3000}
    assert delivered(store_uri, tmp_path / "r").info.run_id == first.info.run_id
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(3000)]


def test_a_new_run_in_the_same_folder_takes_the_place_of_the_old_one(store_uri, tmp_path):
    from gstds.train.tracking.ui import run_filter

    runs = []
    tags = {"folder": str(tmp_path / "r"), "kind": "run", "policy": "random", "comparison": "c"}
    for steps in (5, 3):
        log = begun(tmp_path / "r", store_uri, tags=tags)
        log_steps(log, steps)
        log.finish("finished")
        runs.append(delivered(store_uri, tmp_path / "r").info.run_id)
    assert runs[0] != runs[1]
    assert len(history(store_uri, tmp_path / "r")) == 3
    client = make_client(store_uri)
    assert client.get_run(runs[0]).data.tags["superseded"] == runs[1]
    experiment = client.get_experiment_by_name("gstds").experiment_id
    shown = client.search_runs([experiment], run_filter("c"))
    assert [run.info.run_id for run in shown] == [runs[1]]


def test_a_run_of_a_store_that_was_made_anew_is_delivered_again(store_uri, mlflow_schema, tmp_path):
    first = begun(tmp_path / "r", store_uri)
    log_steps(first, 10)
    first.finish("interrupted")
    sync(tmp_path)
    shutil.copy(mlflow_schema, store_uri.removeprefix("sqlite:///"))
    second = begun(tmp_path / "r", store_uri, resume=True)
    log_steps(second, 20)
    second.finish("finished")
    delivered(store_uri, tmp_path / "r")
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(20)]


def test_a_run_that_was_deleted_in_the_store_stays_deleted(store_uri, tmp_path):
    log = begun(tmp_path / "r", store_uri)
    log_steps(log, 10)
    log.sync()
    run = delivered(store_uri, tmp_path / "r")
    make_client(store_uri).delete_run(run.info.run_id)
    log_steps(log, 10, 20)
    log.finish("finished")
    with pytest.raises(ValueError, match=r"was deleted in .*restore it there"):
        sync(tmp_path)
    make_client(store_uri).restore_run(run.info.run_id)
    assert delivered(store_uri, tmp_path / "r").info.status == "FINISHED"


def test_what_the_store_refuses_holds_nothing_up(store_uri, tmp_path, caplog, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    real = MlflowClient.log_artifact

    def refuses(self, run_id, path, *words):
        if path.endswith("bad.txt"):
            raise MlflowException("no", error_code=1000)
        real(self, run_id, path, *words)

    monkeypatch.setattr(MlflowClient, "log_artifact", refuses)
    log = begun(tmp_path / "r", store_uri)
    for name in ("bad.txt", "gone.txt", "good.txt"):
        (tmp_path / "r" / name).write_text(name)
        log.log_file(tmp_path / "r" / name)
    (tmp_path / "r" / "gone.txt").unlink()
    log.finish("finished")
    with caplog.at_level(logging.WARNING):
        run = delivered(store_uri, tmp_path / "r")
    assert run.info.status == "FINISHED"
    assert "refused what was logged" in caplog.text
    assert "gone.txt is gone" in caplog.text
    kept = [a.path for a in make_client(store_uri).list_artifacts(run.info.run_id)]
    assert kept == ["good.txt"]


def test_a_store_that_fails_in_the_middle_leaves_the_rest_for_later(store_uri, tmp_path):
    path = store_uri.removeprefix("sqlite:///")
    log = begun(tmp_path / "r", store_uri)
    log_steps(log, 10)
    log.finish("finished")
    with sqlite3.connect(path) as database:
        database.execute(NO_ROOM)
    with pytest.raises(ConnectionError, match=r"could not be delivered to .*the rest stays in"):
        sync(tmp_path)
    with sqlite3.connect(path) as database:
        database.execute("DROP TRIGGER no_room")
    assert sync(tmp_path) == {str(tmp_path / "r"): 10}
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(10)]
    assert len(all_runs(store_uri)) == 1


def test_sync_names_a_missing_place_and_a_missing_server(tmp_path, free_port, store_uri):
    with pytest.raises(FileNotFoundError, match="no runs at"):
        sync(tmp_path / "absent")
    assert sync(tmp_path) == {}
    begun(tmp_path / "r", f"http://127.0.0.1:{free_port}").finish("finished")
    with pytest.raises(ConnectionError, match="no MLflow store answers"):
        sync(tmp_path)
    assert delivered(store_uri, tmp_path / "r").info.status == "FINISHED"


def test_sync_finds_the_store_that_a_run_was_started_with(tmp_path, store_uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log = begun(tmp_path / "r", store_uri)
    log_steps(log, 2)
    log.finish("finished")
    with pytest.raises(ConnectionError, match=r"no MLflow store sqlite.*--tracking-uri"):
        sync(tmp_path, "sqlite:///typo.db")
    assert not (tmp_path / "typo.db").exists()
    (tmp_path / "r" / "delivery.json").unlink()
    note = {"tracking": {"uri": store_uri, "experiment": "other"}}
    (tmp_path / "r" / "config.json").write_text(json.dumps(note))
    assert sync(tmp_path) == {str(tmp_path / "r"): 2}
    assert make_client(store_uri).get_experiment_by_name("other") is not None


def test_a_run_without_tracking_is_delivered_when_a_store_is_named(tmp_path, store_uri):
    log = RunLog(tmp_path / "r")
    log.begin(name="quiet", params={}, tags={})
    log.finish("finished")
    assert sync(tmp_path) == {}
    assert sync(tmp_path, store_uri) == {str(tmp_path / "r"): 0}
    assert delivered(store_uri, tmp_path / "r").info.run_name == "quiet"


def test_what_an_older_release_left_is_refused_in_words(tmp_path):
    (tmp_path / "r" / "spool").mkdir(parents=True)
    (tmp_path / "r" / "spool" / f"{'0' * 32}.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"release 0\.1 could not deliver; .*'gstds<0\.2'"):
        sync(tmp_path)


@pytest.mark.parametrize(
    "content",
    [{"uri": 3}, {"uri": "a", "experiment": ["b"]}, {"uri": None, "experiment": "b", "offset": -1}],
)
def test_a_note_that_is_none_is_not_read(tmp_path, content):
    for name, note in (("delivery.json", content), ("config.json", {"tracking": content})):
        (tmp_path / name).write_text(json.dumps(note))
        assert read_target(tmp_path) is None


def test_a_secret_is_in_no_note(tmp_path):
    note_target(tmp_path, "http://me:secret@h", "gstds", "0" * 32)
    assert read_target(tmp_path).uri is None
    assert "secret" not in (tmp_path / "delivery.json").read_text()


def test_a_full_folder_is_no_end_of_a_run(tmp_path, monkeypatch, caplog):
    log = RunLog(tmp_path)
    run_id = log.begin(name="test", params={}, tags={})
    upload = Upload(f"sqlite:///{tmp_path}/mlflow.db")

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    upload.begin(tmp_path, run_id)
    upload.remind()
    assert "gstds sync does afterwards" in caplog.text


def test_a_log_that_begins_with_no_run_is_refused(tmp_path, store_uri):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / LOG_NAME).write_text('{"kind": "end", "status": "failed", "time": 1}\n')
    with pytest.raises(ValueError, match="does not begin with a run"):
        sync(tmp_path, store_uri)


FIND = """
import sys
from gstds.train.tracking.delivery import folder_of
if __name__ == "__main__":
    print(folder_of(*sys.argv[1:]), "mlflow" in sys.modules)
"""


@pytest.mark.parametrize("place", ["runs", pytest.param("elsewhere", marks=pytest.mark.slow)])
def test_a_run_is_found_by_either_id_and_no_mlflow_imported_for_it(store_uri, tmp_path, place):
    folder = tmp_path / place / "r"
    log = begun(folder, store_uri, tags={"folder": str(folder)})
    log.finish("finished")
    ids = (log.run_id, delivered(store_uri, folder).info.run_id)
    (tmp_path / "find.py").write_text(FIND)
    for run in (*ids, "0" * 32):
        command = [sys.executable, "find.py", run, store_uri]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        if run in ids:
            found, imported = done.stdout.split()
            assert (tmp_path / found, imported) == (folder, "False")
        else:
            assert f"LookupError: no run {run!r}" in done.stderr
