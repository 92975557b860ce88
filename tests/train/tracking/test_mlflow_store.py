from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gstds.train.tracking.store import (
    client,
    mask_secrets,
    prepare_environment,
    prepare_store,
    probe_store,
    tracking_uri,
)


def test_uri_comes_from_option_then_environment_then_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert tracking_uri(None) == "http://server:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://me:pass@word@host:5000/x", "http://***@host:5000/x"),
        ("at postgresql://me:secret@db/x and y@z", "at postgresql://***@db/x and y@z"),
        ("https://host/?token=abc&a=1", "https://host/?token=***&a=1"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_secrets_are_masked(text, masked):
    assert mask_secrets(text) == masked


def test_prepare_creates_the_experiment_once_beside_its_artifacts(store_uri):
    first = prepare_store(store_uri, "gstds")
    assert prepare_store(store_uri, "gstds") == first
    folder = Path(store_uri.removeprefix("sqlite:///")).parent
    location = client(store_uri).get_experiment(first).artifact_location
    assert location == (folder / "mlruns" / "gstds").as_uri()


def test_a_deleted_experiment_is_named(store_uri):
    client(store_uri).delete_experiment(prepare_store(store_uri, "gone"))
    with pytest.raises(ValueError, match=r"'gone'.*was deleted"):
        prepare_store(store_uri, "gone")


def test_a_server_that_is_not_there(free_port):
    with pytest.raises(ConnectionError, match="start the server") as caught:
        prepare_store(f"http://me:secret@127.0.0.1:{free_port}")
    assert f"127.0.0.1:{free_port}" in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConnectionError, match="no MLflow store answers"):
        prepare_store(f"postgresql://me:secret@127.0.0.1:{free_port}/db")


def test_a_server_that_accepts_and_says_nothing(monkeypatch):
    monkeypatch.setattr("gstds.train.tracking.store.PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(ConnectionError, match="ReadTimeout"):
            probe_store(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/x", "ftp://host", "http://host:port"])
def test_addresses_of_no_use(uri):
    with pytest.raises(ValueError, match="tracking URI"):
        probe_store(uri)


def test_sqlite_places_of_no_use(tmp_path):
    with pytest.raises(ValueError, match="names a folder"):
        probe_store(f"sqlite:///{tmp_path}")
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="cannot write to"):
        probe_store(f"sqlite:///{tmp_path}/file/mlflow.db")
    (tmp_path / "noise.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(ConnectionError, match=r"noise.db cannot be used .*name another place"):
        prepare_store(f"sqlite:///{tmp_path}/noise.db")


def test_looking_at_a_store_that_is_not_there_leaves_nothing(tmp_path):
    assert probe_store(f"sqlite:///{tmp_path}/new/folder/mlflow.db") == "sqlite"
    assert not list(tmp_path.iterdir())


def test_an_experiment_without_a_name_is_refused_before_a_store_is_made(tmp_path):
    with pytest.raises(ValueError, match="experiment must be a name, got ''"):
        prepare_store(f"sqlite:///{tmp_path}/mlflow.db", "")
    assert not list(tmp_path.iterdir())


MAKE = "from gstds.train.tracking.store import prepare_store; print(prepare_store({uri!r}))"


def test_a_disk_that_fills_up_leaves_no_half_made_store(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n"
    limit += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    words = [sys.executable, "-c", limit + MAKE.format(uri=uri)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "ConnectionError: the MLflow store" in done.stderr
    assert "free some space" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".mlflow.db.lock"]
    assert prepare_store(uri, "gstds")


def test_a_kill_while_a_store_is_made_leaves_no_half_of_it(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    new = tmp_path / ".mlflow.db.new"
    with subprocess.Popen([sys.executable, "-c", MAKE.format(uri=uri)]) as process:
        while process.poll() is None and not (new.exists() and new.stat().st_size > 100_000):
            time.sleep(0.002)
        process.kill()
    assert not (tmp_path / "mlflow.db").exists()
    assert prepare_store(uri, "gstds")
    assert not new.exists()


def test_environment_is_the_users(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    prepare_environment()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_importing_the_tracker_does_not_import_mlflow():
    rooms = ("tracking.uploader", "cli.doctor", "reporting.report")
    names = ", ".join(f"gstds.train.{name}" for name in rooms)
    code = f"import sys, {names}; print('mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert done.stderr == ""


@pytest.mark.slow
def test_processes_may_create_one_store_at_the_same_time(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = f"from gstds.train.tracking.store import prepare_store; print(prepare_store({uri!r}))"
    words = [sys.executable, "-c", code]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(answers) == 1
