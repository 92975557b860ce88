"""Hostile configurations, folders, comparisons and spools are refused; none of their code runs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from gstds.train.cli.main import main
from gstds.train.running.kept import read_kept
from gstds.train.running.options import RunConfig, config_from, load_config_file
from gstds.train.tracking.delivery import read_target
from gstds.train.tracking.log import LOG_NAME
from gstds.train.tracking.store import client
from gstds.train.tracking.uploader import sync
from tests.plants import DEEP, Plant

# Configuration


BILLION = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "epochs: !!python/object/apply:pathlib.Path.touch [{marker}]",
        "epochs: !!python/object/new:pathlib.PosixPath [{marker}]",
        "policy: !!python/name:os.system ''",
        "!!python/module:os {{}}",
        "seed: !!int x",
        "seed: !!timestamp x",
        "seed: !!bool x",
        "seed: 2020-99-99",
        "? [a]\n: 1",
        "policy: '\\0",
        BILLION,
        "a: &a [*a]",
        "policy: " + DEEP,
    ],
)
def test_a_hostile_configuration_is_refused(tmp_path, marker, text, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(text.format(marker=marker) if "{marker}" in text else text)
    with pytest.raises(ValueError, match=r"c\.yaml"):
        load_config_file(path)
    assert main(["run", "--config", str(path)]) == 2
    assert len(capsys.readouterr().err) < 1000


@pytest.mark.parametrize("value", ["!!python/name:os.system ''", "!!int x", "[" * 5000])
def test_a_hostile_value_on_the_command_line_is_refused(value, capsys):
    assert main(["run", "--policy-params", f"a={value}"]) == 2
    assert main(["compare", "--policies", f"gstds@keep={value}", "random"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


# Saved folders


@pytest.mark.parametrize(
    "content", [DEEP, "[]", "{}", '{"config": 3}', '{"config": {"policy": ["a"]}}', "\0"]
)
def test_a_hostile_run_folder_is_refused(tmp_path, content, capsys, pickled):
    for data in (content.encode(), pickled):
        (tmp_path / "config.json").write_bytes(data)
        assert main(["run", "--resume", str(tmp_path)]) == 2
        assert main(["learn", "--resume", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("no readable config.json") == 2


@pytest.mark.parametrize("tracking", [3, [], {}, {"uri": 3, "experiment": 4}])
def test_a_run_folder_with_a_hostile_record_is_refused(tmp_path, tracking, tiny_npz, capsys):
    config = config_from({"dataset": tiny_npz, "policy": "random", "batch_size": 32})
    note = {"version": 1, "config": config.as_dict(), "tracking": tracking}
    (tmp_path / "config.json").write_text(json.dumps(note))
    assert main(["run", "--resume", str(tmp_path), "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("gstds: error: ")


def test_a_record_of_what_was_kept_that_holds_objects_is_refused(tmp_path, marker, pickled):
    plants = np.array([Plant(marker)], dtype=object)
    np.savez(tmp_path / "kept.npz", kept=plants, batch_size=plants, visits=plants)
    with pytest.raises((OSError, ValueError), match=r"kept\.npz"):
        read_kept(tmp_path / "kept.npz")
    (tmp_path / "kept.npz").write_bytes(pickled)
    with pytest.raises((OSError, ValueError), match=r"kept\.npz"):
        read_kept(tmp_path / "kept.npz")


@pytest.mark.parametrize(
    "content", [DEEP, "[]", "{}", '{"runs": 3, "summary": 4}', '{"config": {"dataset": "a:b"}}']
)
def test_a_hostile_comparison_is_refused(tmp_path, content, capsys, pickled):
    for data in (content.encode(), pickled):
        (tmp_path / "comparison.json").write_bytes(data)
        assert main(["report", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert "comparison.json" in error
        assert error.count("\n") == 1


def test_a_report_runs_no_code_that_only_the_file_names(tmp_path, marker, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted_set.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\ndef load(): return {{}}\n"
    )
    config = RunConfig(dataset="planted_set:load").as_dict()
    content = {"setting": "equal-epochs", "runs": [], "summary": [], "config": config}
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    assert main(["report", "."]) == 0
    assert "gstds report DIR --dataset planted_set:load" in (tmp_path / "report.md").read_text()
    assert not marker.exists()
    assert main(["report", ".", "--dataset", "planted_set:load"]) == 0
    assert marker.exists()
    marker.unlink()


def test_a_report_shows_a_planted_page_as_text(tmp_path):
    script = "<script>alert(1)</script>"
    content = {"setting": script, "runs": [], "summary": [], "config": {"dataset": "digits:x"}}
    content |= {"name": script, "command": script, "hardware": {script: script}}
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    assert main(["report", str(tmp_path)]) == 0
    assert "<script" not in (tmp_path / "report.html").read_text()


# The log

RUN = {"kind": "run", "run_id": "0" * 32, "time": 1, "name": "planted", "params": {}, "tags": {}}
RUN |= {"description": "", "data": None}


def planted_log(folder: Path, *lines: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOG_NAME
    path.write_text("".join(json.dumps(line) + "\n" for line in (RUN, *lines)))
    return path


@pytest.mark.parametrize("name", ["../secret", "link", "/etc/hostname", "folder/../../secret"])
def test_a_log_does_not_deliver_a_file_of_elsewhere(tmp_path, store_uri, name):
    (tmp_path / "secret").write_text("hunter2")
    planted_log(tmp_path / "r", {"kind": "file", "time": 2, "file": name, "folder": ""})
    (tmp_path / "r" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "r" / "folder").mkdir()
    with pytest.raises(ValueError, match="which is no file of this folder"):
        sync(tmp_path / "r", store_uri)
    run_id = read_target(tmp_path / "r").mlflow_run_id
    assert client(store_uri).list_artifacts(run_id) == []


@pytest.mark.parametrize("line", [DEEP, "[]", "3", '{"kind": "metrics"}', '{"x": 1}', "{"])
def test_a_hostile_log_is_refused(tmp_path, store_uri, line, pickled):
    path = planted_log(tmp_path / "r")
    whole = path.read_bytes()
    for data in (line.encode(), pickled.replace(b"\n", b"")):
        path.write_bytes(whole + data + b"\n")
        with pytest.raises(ValueError, match=r"log\.jsonl is damaged"):
            sync(tmp_path / "r", store_uri)


def test_a_logs_artifact_cannot_leave_the_store(tmp_path, store_uri):
    line = {"kind": "file", "time": 2, "file": "a", "folder": "../../../../escaped"}
    planted_log(tmp_path / "r", line)
    (tmp_path / "r" / "a").write_text("planted")
    with contextlib.suppress(ConnectionError):
        sync(tmp_path / "r", store_uri)
    assert not list(tmp_path.rglob("escaped*"))
