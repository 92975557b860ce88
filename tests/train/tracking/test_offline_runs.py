"""Runs that begin without their store; servers that are slow or answer nonsense: nothing lost."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gstds.train.cli.main import main
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from gstds.train.tracking.spool import Spool, sync_spool
from gstds.train.tracking.store import client
from gstds.train.tracking.tracker import DataInput, MlflowTracker
from tests.stops import StopAfter
from tests.train.tracking.test_server import Server

HEAD = {"name": "late", "params": {"epochs": 3}, "tags": {"policy": "random"}}
DATA = DataInput("digits", "f" * 64, 1257, 10, (8, 8, 1), "digits")


def tracker_of(uri, tmp_path, **options):
    options = {"interval": 0.05, "finish_seconds": 2, "patient": True, **options}
    return MlflowTracker(uri, spool=tmp_path / "spool", **options)


def steps(uri, run_id, key="train/loss"):
    return sorted(point.step for point in client(uri).get_metric_history(run_id, key))


def late_run(uri, run_id):
    """Return the run that the store made of one with an identifier of its own."""
    filters = f"tags.local_id = '{run_id}'"
    (experiment,) = [e for e in client(uri).search_experiments() if e.name == "gstds"]
    found = client(uri).search_runs([experiment.experiment_id], filters)
    assert len(found) == 1
    return found[0]


def all_runs(uri):
    experiment = client(uri).get_experiment_by_name("gstds")
    return client(uri).search_runs([experiment.experiment_id])


def test_a_run_whose_store_goes_away_once_it_has_a_name_is_described_afterwards(
    store_uri, tmp_path, monkeypatch
):
    from gstds.train.tracking import delivery

    # The courier that never gets to it is one whose process was killed after the first call.
    monkeypatch.setattr(delivery.Courier, "work", lambda self: None)
    tracker = tracker_of(store_uri, tmp_path)
    tracker.prepare()
    run_id = tracker.start(**HEAD, description="what it is", data=DATA)
    bare = client(store_uri).get_run(run_id)
    assert bare.info.run_name == "late"
    assert (bare.data.params, bare.inputs.dataset_inputs) == ({}, [])
    tracker.log({"train/loss": 1.0}, 0)
    tracker.finish("finished")
    assert not tracker.delivered
    for delivered in ({run_id: 1}, {}):
        assert sync_spool(tmp_path, store_uri) == delivered
        run = client(store_uri).get_run(run_id)
        assert run.data.params == {"epochs": "3"}
        assert run.data.tags["policy"] == "random"
        assert run.data.tags["mlflow.note.content"] == "what it is"
        assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["digits"]
        assert run.info.status == "FINISHED"
    assert len(all_runs(store_uri)) == 1


@pytest.fixture
def nowhere(free_port) -> str:
    return f"http://127.0.0.1:{free_port}"


def test_a_run_without_its_store_is_delivered_whole_afterwards(
    nowhere, store_uri, tmp_path, caplog
):
    tracker = tracker_of(nowhere, tmp_path)
    tracker.prepare()
    run_id = tracker.start(**HEAD, description="# Late", data=DATA)
    for step in range(300):
        tracker.log({"train/loss": float(step)}, step)
    tracker.log_text("words", "notes.txt")
    tracker.finish("finished")
    assert not tracker.delivered
    assert sum("begins without its MLflow store" in line for line in caplog.messages) == 1
    assert sync_spool(tmp_path, store_uri) == {run_id: 300}
    run = late_run(store_uri, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "3"}
    assert run.data.tags["policy"] == "random"
    assert run.data.tags["mlflow.note.content"] == "# Late"
    assert run.info.start_time < run.info.end_time
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"
    assert steps(store_uri, run.info.run_id) == list(range(300))
    assert not list(tmp_path.glob("spool/*"))
    assert sync_spool(tmp_path, store_uri) == {}


def test_a_delivery_cut_off_after_the_head_makes_no_second_run(nowhere, store_uri, tmp_path):
    tracker = tracker_of(nowhere, tmp_path)
    run_id = tracker.start(**HEAD)
    tracker.log({"train/loss": 1.0}, 0)
    tracker.finish("finished")
    spool = Spool(tmp_path / "spool", run_id)
    spool.drain(client(store_uri), stop=iter([False, True]).__next__)  # the head alone
    assert spool
    (tmp_path / "spool" / f"{run_id}.target").unlink()  # as if killed before it was noted
    (tmp_path / "spool" / f"{run_id}.offset").unlink()
    sync_spool(tmp_path, store_uri)
    assert steps(store_uri, late_run(store_uri, run_id).info.run_id) == [0]


def test_a_damaged_note_of_where_the_run_went_delivers_again(nowhere, store_uri, tmp_path):
    tracker = tracker_of(nowhere, tmp_path)
    run_id = tracker.start(**HEAD)
    for step in range(3000):
        tracker.log({"train/loss": float(step)}, step)
    tracker.finish("finished")
    spool = Spool(tmp_path / "spool", run_id)
    spool.drain(client(store_uri), stop=iter([False, False, True]).__next__)
    (tmp_path / "spool" / f"{run_id}.target").write_text("{")
    sync_spool(tmp_path, store_uri)
    assert steps(store_uri, late_run(store_uri, run_id).info.run_id) == list(range(3000))


@pytest.mark.parametrize("synced", [True, False])
def test_a_late_run_is_resumed_in_its_own_record(nowhere, store_uri, tmp_path, synced):
    first = tracker_of(nowhere, tmp_path)
    run_id = first.start(**HEAD)
    for step in range(10):
        first.log({"train/loss": float(step)}, step)
    first.finish("interrupted")
    if synced:
        sync_spool(tmp_path, store_uri)
    second = tracker_of(store_uri, tmp_path, finish_seconds=30)
    second.load_state_dict({"run_id": run_id, "waiting": []})
    assert second.start(**HEAD, resume=run_id) == run_id
    for step in range(5, 20):
        second.log({"train/loss": float(step)}, step)
    second.finish("finished")
    assert second.delivered
    run = late_run(store_uri, run_id)
    assert second.run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    assert steps(store_uri, run.info.run_id) == list(range(20))


def test_a_known_run_is_resumed_without_its_store(nowhere, store_uri, tmp_path):
    first = tracker_of(store_uri, tmp_path, finish_seconds=30)
    run_id = first.start(**HEAD)
    for step in range(10):
        first.log({"train/loss": float(step)}, step)
    first.finish("interrupted")
    second = tracker_of(nowhere, tmp_path)
    second.start(**HEAD, resume=run_id)
    for step in range(5, 20):  # the store has 5 … 9 already, which nobody here can know
        second.log({"train/loss": float(step)}, step)
    second.finish("finished")
    sync_spool(tmp_path, store_uri)
    assert steps(store_uri, run_id) == list(range(20))
    assert client(store_uri).get_run(run_id).info.status == "FINISHED"
    assert len(all_runs(store_uri)) == 1


def test_without_patience_a_store_that_is_not_there_is_an_error(nowhere, tmp_path):
    with pytest.raises(ConnectionError, match="--offline"):
        tracker_of(nowhere, tmp_path, patient=False).prepare()
    assert not list(tmp_path.iterdir())


def test_the_command_line_begins_offline_if_it_is_told_to(
    nowhere, store_uri, tmp_path, tiny_npz, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", tiny_npz, "--epochs", "2", "--quiet", "--tracking-uri", nowhere]
    assert main(["run", "--policy", "random", *words, "--out", "r"]) == 2
    assert "--offline" in capsys.readouterr().err
    assert main(["run", "--policy", "random", *words, "--out", "r", "--offline"]) == 0
    compare = ["compare", "--policies", "random", "full", "--seeds", "1", *words, "--no-controls"]
    capsys.readouterr()
    assert main([*compare, "--out", "c", "--offline"]) == 0
    assert "deliver it by: gstds sync c" in capsys.readouterr().out
    assert main(["sync", ".", "--tracking-uri", store_uri, "--quiet"]) == 0
    runs = all_runs(store_uri)
    assert sorted(run.data.tags["policy"] for run in runs) == ["full", "random", "random"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.metrics["final/test_accuracy"] > 0 for run in runs)


class Front:
    """An HTTP server before a real MLflow server: it passes on, waits, or answers 500."""

    def __init__(self, behind: str, port: int) -> None:
        self.behind, self.wait, self.broken, self.asked = behind, 0.0, False, 0
        front = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                front.asked += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                time.sleep(front.wait)
                status, content = (500, b"no") if front.broken else front.ask(self, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        for method in ("GET", "POST", "PUT", "PATCH"):
            setattr(Handler, f"do_{method}", Handler.answer)

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ask(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        kind = handler.headers.get("Content-Type")
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(  # noqa: S310  (loopback)
            self.behind + handler.path, body or None, headers, method=handler.command
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture
def front(store_uri, tmp_path, free_port, unused_port) -> Iterator[Front]:
    real = Server(store_uri, free_port)
    real.start(tmp_path)
    one = Front(real.address, unused_port)
    yield one
    one.server.shutdown()
    one.server.server_close()
    real.stop()


@pytest.fixture
def unused_port(free_port):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_server_that_answers_500_costs_nothing(front, store_uri, tmp_path, tiny_npz):
    config = config_from({"dataset": tiny_npz, "policy": "random", "batch_size": 16, "epochs": 4})
    whole = execute(config, tmp_path / "whole")
    front.broken = True
    tracker = MlflowTracker(front.address, spool=tmp_path / "a" / "spool", patient=True)
    result = execute(config, tmp_path / "a", tracker=tracker)
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert front.asked
    front.broken = False
    sync_spool(tmp_path / "a", front.address)
    run_id = json.loads((tmp_path / "a" / "record.json").read_text())["run_id"]
    run = late_run(store_uri, run_id)
    assert run.info.status == "FINISHED"
    assert len(steps(store_uri, run.info.run_id)) == result["steps"]


@pytest.mark.slow
def test_a_server_that_takes_ten_seconds_for_each_answer_delays_no_step(front, store_uri, tmp_path):
    tracker = tracker_of(front.address, tmp_path, finish_seconds=5)
    tracker.prepare()
    run_id = tracker.start(**HEAD)
    front.wait = 10.0
    before = tracker.seconds()
    slowest = 0.0
    for step in range(2000):
        began = time.perf_counter()
        tracker.log({"train/loss": float(step)}, step)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.001)
    # The calls take milliseconds though each delivery hangs: ten seconds would show in either.
    assert tracker.seconds() - before < 5
    assert slowest < 5
    tracker.finish("finished")
    front.wait = 0.0
    time.sleep(10)  # the answer that hung
    sync_spool(tmp_path, front.address)
    assert steps(store_uri, run_id) == list(range(2000))
    assert client(store_uri).get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_whose_server_comes_back_in_the_middle_is_delivered_by_itself(
    front, store_uri, tmp_path, tiny_npz
):
    front.broken = True

    class ComesBack(StopAfter):
        @property
        def is_set(self) -> bool:
            if self.left == 20:
                front.broken = False
            self.left -= 1
            return False

    spool = tmp_path / "r" / "spool"
    tracker = MlflowTracker(front.address, spool=spool, interval=0.05, patient=True)
    config = config_from({"dataset": tiny_npz, "policy": "random", "batch_size": 16, "epochs": 6})
    result = execute(config, tmp_path / "r", tracker=tracker, stop=ComesBack(60))
    assert tracker.delivered
    assert tracker.run_id is not None
    assert len(steps(store_uri, tracker.run_id)) == result["steps"]
    assert not (tmp_path / "r" / "spool").exists()
