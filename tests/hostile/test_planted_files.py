"""Hostile configurations, folders, comparisons and spools are refused; none of their code runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gstds.train.cli.main import main
from gstds.train.running.options import RunConfig, config_from
from gstds.train.running.options_file import load_config_file
from gstds.train.running.record import read_kept
from gstds.train.tracking.spool import Spool, sync_spool
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


# The spool

RUN = "0" * 32


def planted_spool(folder: Path, **item) -> Path:
    spool = folder / "spool" / f"{RUN}.jsonl"
    spool.parent.mkdir(parents=True, exist_ok=True)
    spool.write_text(json.dumps(item) + "\n")
    return spool


@pytest.mark.parametrize("link", [False, True])
def test_a_spool_does_not_deliver_another_file(tmp_path, link):
    (tmp_path / "secret").write_text("hunter2")
    name = str(tmp_path / "secret")
    place = planted_spool(tmp_path, file=name).parent
    if link:
        own = place / f"{RUN}.files" / "0"
        own.mkdir(parents=True)
        (own / "secret").symlink_to(tmp_path / "secret")
        planted_spool(tmp_path, file=str(own / "secret"))
    delivered = []
    client = type("Client", (), {"log_artifact": lambda self, *words: delivered.append(words)})()
    with pytest.raises(ValueError, match="is no file of this spool"):
        Spool(place, RUN).drain(client)
    assert delivered == []


@pytest.mark.parametrize(
    "line", [DEEP, "[]", "3", '{"points": 3}', '{"points": [[1]]}', '{"x": 1}']
)
def test_a_hostile_spool_is_refused(tmp_path, line, pickled):
    path = planted_spool(tmp_path)
    for data in (line.encode(), pickled.replace(b"\n", b"")):
        path.write_bytes(data + b"\n")
        with pytest.raises(ValueError, match=rf"{RUN}\.jsonl is damaged"):
            list(Spool(path.parent, RUN).waiting())


def test_a_spools_artifact_cannot_leave_the_store(tmp_path, monkeypatch):
    from gstds.train.tracking.store import client, prepare_store

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = prepare_store(uri, "e")
    run_id = client(uri).create_run(experiment).info.run_id
    path = planted_spool(tmp_path, text="planted", path="../../../../escaped.txt")
    path = path.rename(path.with_name(f"{run_id}.jsonl"))
    with pytest.raises(ConnectionError, match="could not be delivered"):
        sync_spool(path, uri)
    assert not list(tmp_path.rglob("escaped.txt"))
