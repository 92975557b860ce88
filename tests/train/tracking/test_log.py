from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds.train.tracking.log import LOG_NAME, RunLog, git_commit, read_log

HEAD = {"name": "test", "params": {}, "tags": {}}


def lines(folder):
    return [line for line, _ in read_log(folder / LOG_NAME)]


def losses(folder):
    return [
        (line["step"], line["values"]["train/loss"])
        for line in lines(folder)
        if "train/loss" in line.get("values", {})
    ]


def test_a_log_says_what_the_run_said(tmp_path):
    log = RunLog(tmp_path)
    data = {
        "name": "digits",
        "digest": "f" * 64,
        "rows": 1257,
        "classes": 10,
        "shape": (8, 8, 1),
        "source": "digits",
    }
    params = {"epochs": 3, "nested": {"a": [1]}, "uri": "http://u:pw@h"}
    run_id = log.begin(name="a run", params=params, tags={"policy": "p"}, data=data)
    log.log({"train/loss": -0.1}, 0)
    (tmp_path / "plot.png").write_bytes(b"picture")
    log.log_file(tmp_path / "plot.png", "plots")
    log.finish("finished")
    head, metrics, file, end = lines(tmp_path)
    assert head["run_id"] == run_id
    assert len(run_id) == 32
    assert head["params"] == {"epochs": "3", "nested": '{"a": [1]}', "uri": "http://***@h"}
    assert head["data"]["rows"] == 1257
    assert metrics["values"] == {"train/loss": -0.1}
    assert (file["file"], file["folder"]) == ("plot.png", "plots")
    assert end["status"] == "finished"
    assert head["time"] <= end["time"]


def test_bad_names_and_values_do_not_stop_a_run(tmp_path, caplog):
    log = RunLog(tmp_path)
    log.begin(**HEAD)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            log.log({"train/loss": 1.0, "bad(name)": 1.0, "up/../down": 1.0}, step)
        log.log({"train/loss": math.nan, "val/loss": math.inf}, 3)
        log.log({"train/loss": "many"}, 4)  # type: ignore[dict-item]
        log.log_file(tmp_path.parent / "elsewhere.png")
        log.log({"train/loss": 5.0}, 5)
        log.finish("finished")
    assert sum("bad(name)" in message for message in caplog.messages) == 1
    assert sum("infinite" in message for message in caplog.messages) == 1
    assert any("elsewhere.png" in message for message in caplog.messages)
    assert losses(tmp_path) == [(0, 1.0), (1, 1.0), (2, 1.0), (3, None), (5, 5.0)]
    assert "NaN" not in (tmp_path / LOG_NAME).read_text()
    with pytest.raises(ValueError, match="status must be one of"):
        log.finish("done")


def test_a_resumed_run_writes_no_line_twice_and_misses_none(tmp_path):
    first = RunLog(tmp_path)
    run_id = first.begin(**HEAD)
    for step in range(150):
        first.log({"train/loss": float(step)}, step)
    first.finish("interrupted")
    for _ in range(2):
        again = RunLog(tmp_path)
        assert again.begin(**HEAD, resume=True) == run_id
        for step in range(100, 200):
            again.log({"train/loss": float(step)}, step)
        again.finish("finished")
    assert losses(tmp_path) == [(i, float(i)) for i in range(200)]


@pytest.mark.parametrize("tag", ["identity", "device"])
def test_other_sources_or_another_device_are_a_new_attempt(tmp_path, tag):
    first = RunLog(tmp_path)
    one = first.begin(**HEAD | {"tags": {tag: "a"}})
    for step in range(150):
        first.log({"train/loss": float(step)}, step)
    first.finish("interrupted")
    again = RunLog(tmp_path)
    assert again.begin(**HEAD | {"tags": {tag: "b"}}, resume=True, step=99) != one
    for step in range(100, 200):
        again.log({"train/loss": -float(step)}, step)
    again.finish("finished")
    assert losses(tmp_path) == [(i, float(i) if i < 100 else -float(i)) for i in range(200)]
    assert [line["kind"] for line in lines(tmp_path)].count("run") == 1


def test_a_new_run_in_the_same_folder_has_a_log_of_its_own(tmp_path):
    first, second = RunLog(tmp_path), RunLog(tmp_path)
    one = first.begin(**HEAD)
    first.log({"train/loss": 1.0}, 0)
    first.finish("finished")
    assert second.begin(**HEAD) != one
    second.finish("finished")
    assert losses(tmp_path) == []


@given(st.integers(1, 400))
@settings(max_examples=25)
def test_a_torn_line_is_cut_and_nothing_else(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    log = RunLog(folder)
    log.begin(**HEAD)
    log.log({"train/loss": 0.0}, 0)
    log.log({"train/loss": 1.0}, 1)
    log.sync()
    whole = (folder / LOG_NAME).read_bytes()
    head = whole.index(b"\n") + 1
    kept = whole[: max(head, len(whole) - cut)]
    (folder / LOG_NAME).write_bytes(kept)
    again = RunLog(folder)
    again.begin(**HEAD, resume=True)
    for step in range(3):
        again.log({"train/loss": float(step)}, step)
    again.finish("finished")
    assert losses(folder) == [(0, 0.0), (1, 1.0), (2, 2.0)]


@given(st.data())
@settings(max_examples=40)
def test_a_flipped_bit_is_found(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flipped")
    log = RunLog(folder)
    log.begin(**HEAD)
    for step in range(4):
        log.log({"train/loss": 0.5 * step}, step)
    log.finish("finished")
    path = folder / LOG_NAME
    whole, every = path.read_bytes(), lines(folder)
    spoiled = bytearray(whole)
    spoiled[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(spoiled)
    if spoiled[-1] != whole[-1]:  # the last line looks as if it were being written
        assert lines(folder) == every[:-1]
    else:
        with pytest.raises(ValueError, match=r"log\.jsonl is damaged"):
            lines(folder)


KILLED = """
import sys, time
from gstds.train.tracking.log import RunLog
log = RunLog(sys.argv[1])
log.begin(name="killed", params={}, tags={})
for step in range(150):
    log.log({"train/loss": float(step)}, step)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_run_has_logged_every_step(tmp_path):
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert losses(tmp_path) == [(i, float(i)) for i in range(150)]


def test_a_disk_without_room_costs_no_line_once_there_is_some(tmp_path, monkeypatch, caplog):
    log = RunLog(tmp_path)
    log.begin(**HEAD)
    real, full = os.write, [True]

    def write(descriptor, content):
        if full[0]:  # as a disk that fills up: the first bytes of a line fit
            real(descriptor, bytes(content)[:7])
            raise OSError(28, "No space left on device")
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    for step in range(50):
        log.log({"train/loss": float(step)}, step)
        full[0] = step < 30
    log.finish("finished")
    assert losses(tmp_path) == [(i, float(i)) for i in range(50)]
    assert sum("cannot be written" in message for message in caplog.messages) == 1


def test_without_a_folder_nothing_is_kept():
    log = RunLog(None)
    assert log.begin(**HEAD) is None
    log.log({"train/loss": 1.0}, 0)
    log.log_file("absent")
    log.finish("finished")


def test_seconds_count_what_the_caller_waited(tmp_path):
    log = RunLog(tmp_path)
    assert log.seconds == 0
    log.begin(**HEAD)
    log.log({"train/loss": 1.0}, 0)
    begun = log.seconds
    log.finish("finished")
    assert 0 < begun < log.seconds


def test_a_log_is_plain_json(tmp_path):
    log = RunLog(tmp_path)
    log.begin(**HEAD)
    log.finish("failed")
    kinds = [json.loads(line)["kind"] for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    assert kinds == ["run", "end"]


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
