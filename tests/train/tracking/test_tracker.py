from __future__ import annotations

import json
import logging
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.tracker import (
    DataInput,
    MlflowTracker,
    NullTracker,
    Tracker,
    git_commit,
    sync_spool,
)

DATA = DataInput("digits", "f" * 64, 1257, 10, (8, 8, 1), "http://me:secret@host/digits")


def make_tracker(uri, tmp_path, **options):
    return MlflowTracker(uri, spool=tmp_path / "spool", interval=0.05, **options)


def start(tracker, **options):
    options = {"name": "test", "params": {}, "tags": {}, **options}
    return tracker.start(**options)


def history(uri, run_id, key):
    points = make_client(uri).get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)


def test_a_run_arrives_whole(store_uri, tmp_path):
    tracker = make_tracker(store_uri, tmp_path)
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"picture")
    run_id = start(
        tracker,
        params={"epochs": 3, "long": "x" * 6001, "nested": {"a": [1]}, "uri": "http://u:pw@h"},
        tags={"policy": "gstds", "long": "y" * 8001},
        description="# A run",
        data=DATA,
    )
    for step in range(2500):
        tracker.log({"train/loss": float(step), "val/accuracy": step / 2500}, step)
    tracker.log_text("hello http://u:pw@h", "notes/hello.txt")
    tracker.log_file(plot, "plots")
    tracker.finish("finished")
    assert tracker.delivered

    client = make_client(store_uri)
    run = client.get_run(run_id)
    assert history(store_uri, run_id, "train/loss") == [(i, float(i)) for i in range(2500)]
    assert len(history(store_uri, run_id, "val/accuracy")) == 2500
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "3"
    assert run.data.params["nested"] == '{"a": [1]}'
    assert run.data.params["uri"] == "http://***@h"
    assert run.data.tags["status"] == "finished"
    assert run.data.tags["mlflow.note.content"] == "# A run"
    assert run.data.tags["mlflow.runColor"].startswith("#")
    for kind, letter, length in (("params", "x", 6001), ("tags", "y", 8001)):
        local = client.download_artifacts(run_id, f"{kind}/long.txt", str(tmp_path))
        with open(local) as handle:
            assert handle.read() == letter * length
        shown = run.data.params if kind == "params" else run.data.tags
        assert f"{kind}/long.txt" in shown["long"]
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "digits"
    assert "secret" not in given.dataset.source
    assert json.loads(given.dataset.profile)["rows"] == 1257
    assert not (tmp_path / "spool").exists()


def test_statuses(store_uri, tmp_path):
    client = make_client(store_uri)
    expected = {"failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}
    for status, shown in expected.items():
        tracker = make_tracker(store_uri, tmp_path)
        run_id = start(tracker)
        tracker.finish(status)
        run = client.get_run(run_id)
        assert (run.info.status, run.data.tags["status"]) == (shown, status)
    with pytest.raises(ValueError, match="status must be one of"):
        tracker.finish("done")


def test_bad_names_and_values_do_not_stop_a_run(store_uri, tmp_path, caplog):
    tracker = make_tracker(store_uri, tmp_path)
    run_id = start(tracker)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            tracker.log({"train/loss": 1.0, "bad(name)": 1.0, "up/../down": 1.0}, step)
        tracker.log({"train/loss": math.nan, "val/loss": math.inf}, 3)
        tracker.log({"train/loss": "many"}, 4)  # type: ignore[dict-item]
        tracker.log_file(tmp_path / "absent.png")
        tracker.log({"train/loss": 5.0}, 5)
        tracker.finish("finished")
    assert sum("bad(name)" in message for message in caplog.messages) == 1
    assert sum("infinite" in message for message in caplog.messages) == 1
    losses = make_client(store_uri).get_metric_history(run_id, "train/loss")
    by_step = {point.step: point.value for point in losses}
    assert math.isnan(by_step.pop(3))
    assert by_step == {0: 1.0, 1: 1.0, 2: 1.0, 5: 5.0}
    (infinite,) = make_client(store_uri).get_metric_history(run_id, "val/loss")
    assert math.isnan(infinite.value)


KILLED = """
import json, os, sys, time
from gstds.train.tracking.tracker import MlflowTracker
tracker = MlflowTracker(sys.argv[1], spool=sys.argv[2], interval=0.05)
tracker.start(name="killed", params={}, tags={})
for step in range(100):
    tracker.log({"train/loss": float(step)}, step)
print(json.dumps(tracker.state_dict()), flush=True)
for step in range(100, 150):
    tracker.log({"train/loss": float(step)}, step)
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_resumed_run_repeats_no_step_and_misses_none(store_uri, tmp_path):
    first = make_tracker(store_uri, tmp_path)
    run_id = start(first)
    for step in range(100):
        first.log({"train/loss": float(step)}, step)
    state = json.loads(json.dumps(first.state_dict()))
    for step in range(100, 150):
        first.log({"train/loss": float(step)}, step)
    first.finish("interrupted")

    lost = [["val/loss", 1.0, 1_700_000_000_000, 50], ["val/loss", None, 1_700_000_000_001, 60]]
    for order in ("before", "after"):
        again = make_tracker(store_uri, tmp_path)
        if order == "before":
            again.load_state_dict({**state, "waiting": state["waiting"] + lost})
        start(again, resume=run_id)
        if order == "after":
            again.load_state_dict({**state, "waiting": state["waiting"] + lost})
        for step in range(100, 200):
            again.log({"train/loss": float(step)}, step)
        again.finish("finished")
    assert history(store_uri, run_id, "train/loss") == [(i, float(i)) for i in range(200)]
    assert [step for step, _ in history(store_uri, run_id, "val/loss")] == [50, 60]


@pytest.mark.slow
def test_a_killed_run_goes_on_without_a_gap_and_without_a_double(store_uri, tmp_path):
    words = [sys.executable, "-c", KILLED, store_uri, str(tmp_path / "spool")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    state = json.loads(process.stdout.readline())
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state["waiting"]  # the checkpoint was faster than the delivery

    tracker = make_tracker(store_uri, tmp_path)
    tracker.load_state_dict(state)
    run_id = start(tracker, resume=state["run_id"])
    for step in range(100, 200):
        tracker.log({"train/loss": float(step)}, step)
    tracker.finish("finished")
    assert history(store_uri, run_id, "train/loss") == [(i, float(i)) for i in range(200)]
    assert make_client(store_uri).get_run(run_id).info.status == "FINISHED"


def test_resume_refuses_what_it_cannot_go_on_with(store_uri, tmp_path):
    with pytest.raises(ValueError, match="'0123' is not in sqlite"):
        start(make_tracker(store_uri, tmp_path), resume="0123")
    tracker = make_tracker(store_uri, tmp_path)
    run_id = start(tracker)
    with pytest.raises(BlockingIOError, match="open in another process"):
        start(make_tracker(store_uri, tmp_path), resume=run_id)
    with pytest.raises(ValueError, match="is of run other"):
        tracker.load_state_dict({"run_id": "other", "waiting": []})
    tracker.finish("interrupted")
    again = make_tracker(store_uri, tmp_path)
    assert start(again, resume=run_id) == run_id
    again.finish("finished")


def test_a_store_that_hangs_is_left_to_the_spool(store_uri, tmp_path):
    tracker = make_tracker(store_uri, tmp_path, finish_seconds=0.5)
    run_id = start(tracker, params={"epochs": 3}, tags={"policy": "random"})
    other = sqlite3.connect(store_uri.removeprefix("sqlite:///"))
    other.execute("BEGIN EXCLUSIVE")
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"picture")
    for step in range(3000):
        tracker.log({"train/loss": float(step), "val/loss": math.nan}, step)
    tracker.log_file(plot, "plots")
    tracker.finish("finished")
    plot.unlink()
    assert not tracker.delivered
    assert (tmp_path / "spool" / f"{run_id}.jsonl").exists()
    other.rollback()
    other.close()

    # The call that hung may come through as well: still nothing stands there twice.
    assert sync_spool(tmp_path, store_uri) == {run_id: 6000}
    assert sync_spool(tmp_path, store_uri) == {}
    assert history(store_uri, run_id, "train/loss") == [(i, float(i)) for i in range(3000)]
    assert len(history(store_uri, run_id, "val/loss")) == 3000
    client = make_client(store_uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "3"}
    assert run.data.tags["policy"] == "random"
    assert [a.path for a in client.list_artifacts(run_id, "plots")] == ["plots/plot.png"]
    assert not list((tmp_path / "spool").glob("*"))


def test_a_store_that_comes_back_gets_everything_in_order(store_uri, tmp_path, caplog):
    path = store_uri.removeprefix("sqlite:///")
    tracker = make_tracker(store_uri, tmp_path)
    run_id = start(tracker)
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE metrics RENAME TO hidden")
    spool = tmp_path / "spool" / f"{run_id}.jsonl"
    step = 0
    while not spool.exists() or spool.stat().st_size < 10_000:
        tracker.log({"train/loss": float(step)}, step)
        time.sleep(0.001)
        step += 1
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE hidden RENAME TO metrics")
    tracker.log({"train/loss": float(step)}, step)
    tracker.finish("finished")
    assert tracker.delivered
    assert history(store_uri, run_id, "train/loss") == [(i, float(i)) for i in range(step + 1)]
    assert sum("does not answer" in message for message in caplog.messages) == 1
    assert not spool.exists()


def test_null_tracker_is_a_tracker():
    tracker: Tracker = NullTracker()
    assert start(tracker) == ""
    tracker.log({"train/loss": 1.0}, 0)
    tracker.finish("finished")
    assert tracker.state_dict() == {}
    assert tracker.run_id is None


def test_seconds_count_what_the_caller_waited(store_uri, tmp_path):
    tracker = make_tracker(store_uri, tmp_path)
    assert tracker.seconds() == 0
    start(tracker)
    begun = tracker.seconds()
    tracker.finish("finished")
    assert 0 < begun < tracker.seconds()


def test_git_commit(tmp_path):
    assert git_commit(tmp_path) is None
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}

    def git(*words):
        own = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *own, *words]
        subprocess.run(command, check=True, env=environment, capture_output=True)

    git("init")
    (tmp_path / "a.py").write_text("1\n")
    assert git_commit(tmp_path) is None
    git("add", "a.py")
    git("commit", "-m", "first")
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a.py").write_text("2\n")
    assert git_commit(tmp_path) == f"{clean}-dirty"
