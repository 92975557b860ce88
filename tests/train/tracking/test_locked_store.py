from __future__ import annotations

import sqlite3
import time

import pytest

from gstds.train.tracking.store import client
from gstds.train.tracking.tracker import MlflowTracker


@pytest.mark.slow
def test_a_locked_database_delays_nothing_and_loses_nothing(store_uri, tmp_path):
    tracker = MlflowTracker(store_uri, spool=tmp_path / "spool", interval=0.1)
    run_id = tracker.start(name="patient", params={}, tags={})
    spool = tmp_path / "spool" / f"{run_id}.jsonl"
    for step in range(100):
        tracker.log({"train/loss": float(step)}, step)
    time.sleep(1)
    with sqlite3.connect(store_uri.removeprefix("sqlite:///"), isolation_level=None) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        for step in range(100, 600):
            tracker.log({"train/loss": float(step)}, step)
        while not spool.exists():  # MLflow itself waits some seconds before it gives up
            time.sleep(0.1)
        lock.execute("ROLLBACK")
    while spool.exists():
        time.sleep(0.1)
    for step in range(600, 700):
        tracker.log({"train/loss": float(step)}, step)
    tracker.finish("finished")
    assert tracker.delivered
    history = client(store_uri).get_metric_history(run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(700))
    assert all(point.value == point.step for point in history)
    assert client(store_uri).get_run(run_id).info.status == "FINISHED"
