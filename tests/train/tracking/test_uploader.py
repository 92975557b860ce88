"""The process that outlives a command and carries its record to MLflow; servers that misbehave."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gstds.common.checksummed_json import write_sealed
from gstds.common.files import is_locked
from gstds.train.cli.main import main
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from gstds.train.tracking.delivery import Delivery, read_target
from gstds.train.tracking.store import client
from gstds.train.tracking.uploader import Upload, Uploader, deliver_waiting, sync, undelivered
from tests.stops import StopAfter
from tests.stores import delivered, history
from tests.train.tracking.test_delivery import all_runs, begun, log_steps
from tests.train.tracking.test_ui import Server


@pytest.fixture
def detached(monkeypatch):
    """Let runs start the process, as they do for users."""
    monkeypatch.setenv("GSTDS_UPLOADER", "1")


def place_of(uri: str) -> Path:
    path = Path(uri.removeprefix("sqlite:///"))
    return path.with_name(f".{path.name}.uploads")


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def uploaders() -> list[int]:
    """Return the process ids of the uploaders of this test's store."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"gstds.train.tracking.uploader" in words:
            found.append(int(process.name))
    return found


def its_uploaders(uri: str) -> list[int]:
    place = str(place_of(uri))
    mine = []
    for pid in uploaders():
        try:
            if os.readlink(f"/proc/{pid}/cwd") == place:
                mine.append(pid)
        except OSError:
            continue
    return mine


def test_the_process_delivers_while_a_run_goes_on_and_leaves_only_its_log(
    detached, store_uri, tmp_path
):
    logs = [begun(tmp_path / name, store_uri) for name in ("a", "b")]
    for log in logs:
        log_steps(log, 100)
    wait_for(
        lambda: all(
            t and t.mlflow_run_id for t in map(read_target, (tmp_path / "a", tmp_path / "b"))
        )
    )
    wait_for(lambda: len(history(store_uri, tmp_path / "a")) == 100)
    assert len(its_uploaders(store_uri)) == 1
    for log in logs:
        log_steps(log, 100, 200)
        log.finish("finished")
    wait_for(lambda: not undelivered(tmp_path))
    wait_for(lambda: not its_uploaders(store_uri))
    for name in ("a", "b"):
        assert history(store_uri, tmp_path / name) == [(i, float(i)) for i in range(200)]
    assert {run.info.status for run in all_runs(store_uri)} == {"FINISHED"}
    assert sorted(p.name for p in place_of(store_uri).iterdir()) == ["lock", "log.txt"]
    assert (place_of(store_uri) / "log.txt").read_text() == ""


@pytest.mark.slow
def test_a_killed_uploader_is_replaced_and_nothing_is_twice(detached, store_uri, tmp_path):
    log = RunLogWithUpload(tmp_path / "r", store_uri)
    for number in range(3):
        log_steps(log.log, 1000 * number, 1000 * (number + 1))
        wait_for(lambda: its_uploaders(store_uri) and is_locked(place_of(store_uri) / "lock"))
        time.sleep(0.5 * number)
        for pid in its_uploaders(store_uri):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_locked(place_of(store_uri) / "lock"))
        log.upload.remind()
    log.log.finish("finished")
    wait_for(lambda: not undelivered(tmp_path))
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(3000)]
    assert len(all_runs(store_uri)) == 1


class RunLogWithUpload:
    def __init__(self, folder, uri):
        from gstds.train.tracking.log import RunLog

        self.log, self.upload = RunLog(folder), Upload(uri)
        self.upload.begin(folder, self.log.begin(name="test", params={}, tags={}))


@pytest.mark.slow
def test_a_locked_database_delays_nothing_and_loses_nothing(detached, store_uri, tmp_path):
    log = begun(tmp_path / "r", store_uri)
    log_steps(log, 100)
    wait_for(lambda: not undelivered(tmp_path))
    with sqlite3.connect(store_uri.removeprefix("sqlite:///"), isolation_level=None) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        log_steps(log, 100, 600)
        wait_for(lambda: "locked" in (place_of(store_uri) / "log.txt").read_text())
        lock.execute("ROLLBACK")
    wait_for(lambda: not undelivered(tmp_path))
    log_steps(log, 600, 700)
    log.finish("finished")
    wait_for(lambda: not undelivered(tmp_path))
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(700)]
    assert {run.info.status for run in all_runs(store_uri)} == {"FINISHED"}


def test_without_it_nothing_is_started_and_sync_delivers(store_uri, tmp_path, monkeypatch):
    monkeypatch.setenv("GSTDS_UPLOADER", "0")
    log = begun(tmp_path / "r", store_uri)
    log_steps(log, 10)
    log.finish("finished")
    assert not its_uploaders(store_uri)
    assert undelivered(tmp_path) == [tmp_path / "r"]
    assert sync(tmp_path) == {str(tmp_path / "r"): 10}


def test_sync_leaves_a_run_that_goes_on_to_the_uploader(store_uri, tmp_path):
    from gstds.train.running.folder import held

    with held(tmp_path / "r"):
        log = begun(tmp_path / "r", store_uri)
        log_steps(log, 10)
        assert sync(tmp_path) == {}
        log.finish("finished")
    assert sync(tmp_path) == {str(tmp_path / "r"): 10}


def test_sync_waits_for_an_uploader_that_is_at_work(detached, store_uri, tmp_path):
    other = begun(tmp_path / "other", store_uri)  # keeps it at work
    wait_for(lambda: is_locked(place_of(store_uri) / "lock"))
    os.environ["GSTDS_UPLOADER"] = "0"
    log = begun(tmp_path / "r", store_uri)
    (place_of(store_uri) / f"{log.run_id}.json").unlink()  # it was never asked
    log_steps(log, 1500)
    log.finish("finished")
    assert sync(tmp_path / "r") == {str(tmp_path / "r"): 1500}
    other.finish("finished")
    wait_for(lambda: not its_uploaders(store_uri))
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(1500)]


def test_what_waits_for_a_store_is_delivered_before_the_store_is_looked_at(
    store_uri, tmp_path, caplog
):
    log = begun(tmp_path / "r", store_uri)
    log.finish("finished")
    going_on = begun(tmp_path / "on", store_uri)
    gone = {"folder": str(tmp_path / "gone"), "pid": 0, "experiment": "gstds"}
    write_sealed(place_of(store_uri) / "gone.json", gone)
    deliver_waiting(store_uri)
    assert undelivered(tmp_path) == [tmp_path / "on"]
    assert [p.stem for p in place_of(store_uri).glob("*.json")] == [going_on.run_id]
    assert "gone" in caplog.text


def test_those_who_deliver_at_once_deliver_everything_once(store_uri, tmp_path):
    log = begun(tmp_path / "r", store_uri)
    log_steps(log, 3000)
    log.finish("finished")
    with ThreadPoolExecutor(3) as pool:
        counts = list(pool.map(sync, [tmp_path] * 3))
    assert sum(sum(count.values()) for count in counts) == 3000
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(3000)]
    assert len(all_runs(store_uri)) == 1


def test_a_run_that_is_resumed_while_its_end_is_delivered_is_not_forgotten(
    store_uri, tmp_path, monkeypatch
):
    first = begun(tmp_path / "r", store_uri)
    first.finish("interrupted")
    real, again = Delivery.deliver, []

    def resumed_meanwhile(delivery: Delivery) -> int:
        count = real(delivery)
        again.append(begun(tmp_path / "r", store_uri, resume=True))
        return count

    monkeypatch.setattr(Delivery, "deliver", resumed_meanwhile)
    left, _, _ = Uploader(store_uri).look()
    monkeypatch.undo()
    assert [path.stem for path in left] == [first.run_id]
    again[0].finish("finished")
    assert Uploader(store_uri).look() == (set(), False, False)
    assert {run.info.status for run in all_runs(store_uri)} == {"FINISHED"}


@pytest.mark.parametrize(
    "entry",
    [b"{", b"[]", b"3", b'{"folder": 3, "pid": 0}', b'{"folder": "/absent", "pid": 0}', b"\x80"],
)
def test_an_entry_that_is_none_is_told_and_dropped(store_uri, entry, caplog):
    place = place_of(store_uri)
    place.mkdir()
    (place / "bad.json").write_bytes(entry)
    left, moved, failed = Uploader(store_uri).look()
    assert (left, moved, failed) == (set(), False, False)


# ---------------------------------------------------------------------------------- servers


@pytest.fixture
def nowhere(free_port) -> str:
    return f"http://127.0.0.1:{free_port}"


def test_the_command_line_begins_offline_if_it_is_told_to(
    nowhere, store_uri, tmp_path, tiny_npz, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", tiny_npz, "--epochs", "2", "--quiet", "--tracking-uri", nowhere]
    words += ["--no-model"]
    assert main(["run", "--policy", "random", *words, "--out", "r"]) == 2
    assert "--offline" in capsys.readouterr().err
    assert main(["run", "--policy", "random", *words, "--out", "r", "--offline"]) == 0
    compare = ["compare", "--policies", "random", "full", "--seeds", "1", *words, "--no-controls"]
    assert main([*compare, "--out", "c", "--offline"]) == 0
    assert main(["sync", ".", "--quiet"]) == 2
    assert "no MLflow store answers" in capsys.readouterr().err
    assert main(["sync", ".", "--tracking-uri", store_uri, "--quiet"]) == 0
    runs = [run for run in all_runs(store_uri) if run.data.tags["kind"] == "run"]
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
                broken = front.broken and self.path != "/health"
                status, content = (500, b"no") if broken else front.ask(self, body)
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
def test_a_server_that_answers_500_costs_nothing(detached, front, store_uri, tmp_path, tiny_npz):
    config = config_from({"dataset": tiny_npz, "policy": "random", "batch_size": 16, "epochs": 4})
    whole = execute(config, tmp_path / "whole")
    front.broken = True
    result = execute(config, tmp_path / "a", upload=Upload(front.address))
    assert result["weights_sha256"] == whole["weights_sha256"]
    wait_for(lambda: front.asked > 1)
    with pytest.raises(ConnectionError):
        sync(tmp_path / "a", front.address)
    front.broken = False
    run = delivered(front.address, tmp_path / "a")
    assert run.info.status == "FINISHED"
    assert len(history(store_uri, tmp_path / "a")) == result["steps"]


@pytest.mark.slow
def test_a_server_that_takes_ten_seconds_for_each_answer_delays_no_step(
    detached, front, store_uri, tmp_path
):
    front.wait = 10.0
    log = begun(tmp_path / "r", front.address)
    slowest = 0.0
    for step in range(2000):
        began = time.perf_counter()
        log.log({"train/loss": float(step)}, step)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.001)
    log.finish("finished")
    # The calls take microseconds though each delivery hangs: ten seconds would show in either.
    assert log.seconds < 5
    assert slowest < 5
    front.wait = 0.0
    wait_for(lambda: not undelivered(tmp_path))
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(2000)]
    assert client(store_uri).get_run(read_target(tmp_path / "r").mlflow_run_id).info.status == (
        "FINISHED"
    )


@pytest.mark.slow
def test_a_run_whose_server_comes_back_in_the_middle_is_delivered_by_itself(
    detached, front, store_uri, tmp_path, tiny_npz
):
    front.broken = True

    class ComesBack(StopAfter):
        @property
        def is_set(self) -> bool:
            if self.left == 20:
                front.broken = False
            self.left -= 1
            return False

    config = config_from({"dataset": tiny_npz, "policy": "random", "batch_size": 16, "epochs": 6})
    upload = Upload(front.address)
    result = execute(config, tmp_path / "r", upload=upload, stop=ComesBack(60))
    wait_for(lambda: not undelivered(tmp_path))
    assert len(history(store_uri, tmp_path / "r")) == result["steps"]


@pytest.mark.slow
def test_a_server_stopped_in_the_middle_loses_nothing(detached, store_uri, free_port, tmp_path):
    server = Server(store_uri, free_port)
    server.start(tmp_path)
    log = begun(tmp_path / "r", server.address)
    log_steps(log, 500)
    wait_for(lambda: not undelivered(tmp_path))
    server.stop()
    log_steps(log, 500, 1000)
    server.start(tmp_path)
    wait_for(lambda: not undelivered(tmp_path))
    log_steps(log, 1000, 1200)
    server.stop()
    log.finish("finished")
    with pytest.raises(ConnectionError):
        sync(tmp_path, server.address)
    server.start(tmp_path)
    wait_for(lambda: not undelivered(tmp_path))
    server.stop()
    assert history(store_uri, tmp_path / "r") == [(i, float(i)) for i in range(1200)]
    assert {run.info.status for run in all_runs(store_uri)} == {"FINISHED"}


def test_a_secret_in_the_address_is_not_among_the_words_of_the_process(
    detached, tmp_path, nowhere, monkeypatch
):
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    address = nowhere.replace("://", "://me:hunter2@")
    begun(tmp_path / "r", address).finish("finished")
    wait_for(uploaders)
    for pid in uploaders():
        words = subprocess.run(
            ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        assert "hunter2" not in words.stdout
        os.kill(pid, signal.SIGKILL)
    for path in (tmp_path / "cache").rglob("*"):
        assert path.is_dir() or "hunter2" not in path.read_text()
    assert sys.executable
