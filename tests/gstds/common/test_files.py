from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import threading
import time

import pytest

from gstds.common.files import (
    atomic_open,
    cache_root,
    is_locked,
    locked,
    pending_json,
    sha256,
    write_json,
    write_text,
)

KILLED = """
import os, signal, sys
from gstds.common.files import atomic_open
with atomic_open(sys.argv[1]) as handle:
    handle.write(b"half")
    handle.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
TOO_LARGE = """
import resource, signal, sys
from gstds.common.files import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(sys.argv[1], b"x" * 5000)
except OSError as error:
    sys.exit(7)
"""


def test_an_exception_in_the_body_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a", "old")
    with contextlib.suppress(RuntimeError), atomic_open(tmp_path / "a") as handle:
        handle.write(b"new")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a", "old")
    code = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False)
    assert code.returncode == -9
    assert (tmp_path / "a").read_text() == "old"


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path):
    write_text(tmp_path / "a", "old")
    code = subprocess.run([sys.executable, "-c", TOO_LARGE, str(tmp_path / "a")], check=False)
    assert code.returncode == 7
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_json_is_strict_and_made_in_a_new_folder(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"x": [1, None]})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"x": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "new" / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"x": [1, None]}


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("GSTDS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "gstds"


def test_pending_json_stands_there_only_when_the_body_has_ended(tmp_path):
    path = tmp_path / "a.json"
    with contextlib.suppress(RuntimeError), pending_json(path, {"a": 1}):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with pending_json(path, {"a": 1}):
        assert not path.exists()
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_checksum_of_parts_is_that_of_the_whole():
    whole = hashlib.sha256("äbcde".encode()).hexdigest()
    assert sha256("äb", b"c", parts=(part for part in (memoryview(b"d"), "e"))) == whole


HOLDS = """
import sys, time
from gstds.common.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_has_one_holder_and_is_free_when_that_one_is_killed(tmp_path):
    path = tmp_path / "there" / "lock"
    assert not is_locked(path)
    assert not path.parent.exists()
    words = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert is_locked(path)
        with pytest.raises(BlockingIOError, match="held by another process"), locked(path, wait=0):
            pass
        process.kill()
    with locked(path, wait=5):
        assert is_locked(path)
        with pytest.raises(BlockingIOError), locked(path, wait=0.2):
            pass
    assert not is_locked(path)


def test_a_lock_that_is_removed_with_its_folder_can_be_taken_again(tmp_path):
    path = tmp_path / "there" / "lock"
    for _ in range(2):
        with locked(path, keep=False):
            assert path.exists()
        assert not path.exists()
        path.parent.rmdir()


def test_whoever_waits_gets_the_lock_that_its_holder_removes(tmp_path):
    path, order = tmp_path / "lock", []

    def second():
        with locked(path, wait=10, keep=False):
            order.append("second")

    with locked(path, keep=False):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
