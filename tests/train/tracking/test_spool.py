from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds.train.tracking.spool import Item, Point, Spool, sync_spool
from gstds.train.tracking.store import client, prepare_store

RUN = "a" * 32


def points(*steps):
    return Item(points=tuple(Point("train/loss", float(s), 1000 + s, s) for s in steps))


class Recorder:
    """Stands where a store would: notes what arrives, and fails when told."""

    def __init__(self, fail_after=None):
        self.steps, self.other, self.calls = [], [], 0
        self.fail_after = fail_after

    def log_batch(self, run_id, metrics, tags=()):
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise OSError("gone")
        self.steps += [metric.step for metric in metrics]

    def log_text(self, run_id, text, path):
        self.other.append((text, path, len(self.steps)))


def test_items_survive_the_disk():
    item = Item(
        points=(Point("a/b", math.nan, 5, 7), Point("a/c", -0.1, 5, 7)),
        status="KILLED",
        end_time=12,
        tags=(("status", "interrupted"),),
    )
    again = Item.from_json(item.to_json())
    assert math.isnan(again.points[0].value)
    assert again.points[1:] == item.points[1:]
    assert (again.status, again.end_time, again.tags) == ("KILLED", 12, item.tags)
    assert "NaN" not in item.to_json()


@given(st.lists(st.integers(0, 40), max_size=10), st.integers(0, 6))
@settings(max_examples=12, deadline=None)
def test_everything_arrives_once_and_in_order_however_often_it_fails(tmp_path_factory, sizes, fail):
    spool = Spool(tmp_path_factory.mktemp("spool"), RUN)
    step = 0
    for size in sizes:
        spool.append([points(*range(step, step + size)), Item(text="t", path="p")])
        step += size
    arrived = []
    for _ in range(100):
        recorder = Recorder(fail_after=fail)
        try:
            spool.drain(recorder)
        except OSError:
            fail += 1
        arrived += recorder.steps
    assert not spool
    assert arrived == list(range(step))


def test_batches_are_joined_to_a_thousand_and_artifacts_keep_their_place(tmp_path):
    spool = Spool(tmp_path, RUN)
    spool.append([points(i) for i in range(1500)] + [Item(text="x", path="p"), points(1500)])
    recorder = Recorder()
    assert spool.drain(recorder) == 1501
    assert recorder.calls == 3
    assert recorder.other == [("x", "p", 1500)]
    assert not spool
    assert not list(tmp_path.iterdir())


def test_a_torn_line_is_cut_and_nothing_else(tmp_path):
    spool = Spool(tmp_path, RUN)
    spool.append([points(0), points(1)])
    with spool.path.open("ab") as handle:
        handle.write(b'{"points": [["tr')
    assert spool.last_steps() == {"train/loss": 1}
    spool.append([points(2)])
    recorder = Recorder()
    spool.drain(recorder)
    assert recorder.steps == [0, 1, 2]


def test_files_are_kept_until_they_are_delivered(tmp_path):
    source = tmp_path / "plot.png"
    source.write_bytes(b"picture")
    spool = Spool(tmp_path / "spool", RUN)
    spool.append([Item(file=str(source), path="plots"), Item(file=str(tmp_path / "absent"))])
    source.unlink()
    (item,) = [item for item, _ in spool.waiting()]
    with open(item.file, "rb") as handle:
        assert handle.read() == b"picture"
    assert item.file.endswith("/plot.png")


def test_one_holder_at_a_time(tmp_path):
    spool = Spool(tmp_path, RUN)
    with spool.lock(), pytest.raises(BlockingIOError), Spool(tmp_path, RUN).lock():
        pass
    with spool.lock():
        pass


def test_sync_names_a_missing_place_and_a_missing_server(tmp_path, free_port):
    with pytest.raises(FileNotFoundError, match="no spool at"):
        sync_spool(tmp_path / "absent")
    assert sync_spool(tmp_path) == {}
    spool = Spool(tmp_path, RUN)
    spool.append([points(0)])
    with pytest.raises(ConnectionError, match="no MLflow store answers"):
        sync_spool(tmp_path, f"http://127.0.0.1:{free_port}")
    assert spool


def test_sync_leaves_the_rest_of_a_run_that_the_store_does_not_know(tmp_path, store_uri):
    spool = Spool(tmp_path / "spool", RUN)
    spool.append([points(0)])
    with pytest.raises(ConnectionError, match="the rest stays in"):
        sync_spool(tmp_path, store_uri)
    assert spool


def test_sync_finds_the_store_that_a_run_was_started_with(tmp_path, store_uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = client(store_uri)
    run = store.create_run(prepare_store(store_uri, "gstds")).info.run_id
    spool = Spool(tmp_path / "r" / "spool", run)
    spool.append([points(0), points(1)])
    with pytest.raises(ConnectionError, match=r"no MLflow store sqlite.*--tracking-uri"):
        sync_spool(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "r" / "config.json").write_text(json.dumps({"tracking": {"uri": store_uri}}))
    assert sync_spool(tmp_path) == {run: 2}
    assert not spool
    assert len(store.get_metric_history(run, "train/loss")) == 2
