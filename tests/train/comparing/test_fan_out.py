from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace

import pytest

from gstds.common.files import locked
from gstds.train.cli.main import main
from gstds.train.comparing.compare import Comparison, compare, plan
from gstds.train.launching import jobs as workers
from gstds.train.launching.jobs import Logs, Watch, run_job
from gstds.train.running.ending import StopFlag
from gstds.train.running.options import RunConfig
from gstds.train.tracking.store import client
from gstds.train.tracking.uploader import sync
from tests.stores import delivered, history


def comparison(folder, data, **options):
    base = RunConfig(dataset=data, batch_size=32, epochs=2, learner="mlp")
    given = {
        "policies": ("random",), "seeds": 1, "baseline": "random", "name": "c", "folder": folder,
        "tracking": None, "experiment": "gstds",
    }  # fmt: skip
    return Comparison(base=base, **(given | options))


def test_a_run_waits_for_whoever_still_saves_there(tmp_path, tiny_npz):
    (job,) = plan(comparison(tmp_path, tiny_npz))
    job.folder.mkdir(parents=True)
    results = []
    thread = threading.Thread(target=lambda: results.append(run_job(job)))
    with locked(job.folder / "run.lock"):
        thread.start()
        time.sleep(1)
        assert not (job.folder / "config.json").exists()
    thread.join(60)
    assert results[0]["status"] == "finished"


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_that_were_said_are_those_of_every_run(tmp_path, tiny_npz, workers):
    jobs = plan(comparison(tmp_path, tiny_npz, seeds=2, threads=3, workers=workers))
    assert [job.threads for job in jobs] == [3, 3]


def test_threads_that_were_not_said_share_the_cores_among_the_workers(tmp_path, tiny_npz):
    alone, shared = (plan(comparison(tmp_path, tiny_npz, workers=w))[0].threads for w in (1, 10**6))
    assert alone >= 1 == shared


def test_workers_are_spawned_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert workers.start_method() == "spawn"


def test_a_run_that_waits_can_be_stopped(tmp_path, tiny_npz):
    (job,) = plan(comparison(tmp_path, tiny_npz))
    job.folder.mkdir(parents=True)
    stop = StopFlag()
    with locked(job.folder / "run.lock"):
        threading.Timer(0.5, stop.set).start()
        assert run_job(job, stop=stop)["status"] == "interrupted"


def test_a_run_tells_how_it_goes_on(tmp_path, tiny_npz):
    (job,) = plan(comparison(tmp_path, tiny_npz))
    told, steps = [], []
    watch = Watch()
    watch.moved = lambda *words: told.append(words)
    logs = Logs(watch)
    assert logs.look([job]) == []  # no log yet
    result = run_job(job, lambda *step: steps.append(step))
    assert steps[-1] == ("training", result["steps"], result["steps"])
    time.sleep(0.6)
    assert logs.look([job]) == [job]
    assert logs.look([job]) == []  # twice a second at most
    time.sleep(0.6)
    assert logs.look([job]) == []  # nothing new
    accuracy = result["history"][-1]["val_accuracy"]
    assert told == [(job, "training", result["steps"], result["steps"], accuracy)]


def test_whoever_is_asked_can_stop_a_run(tmp_path, tiny_npz):
    (job,) = plan(comparison(tmp_path, tiny_npz))
    options = {"epochs": 10**5, "learning_rate": 1e-6}  # too little to diverge on
    endless = replace(job, config=job.config.with_options(**options))
    result = run_job(endless, stop=StopFlag((job.folder / "log.jsonl").exists))
    assert result["status"] == "interrupted"
    assert result["steps"] > 0


def test_seconds_of_two_commands_are_not_compared(tmp_path, tiny_npz):
    words = [
        "compare",
        "--dataset",
        tiny_npz,
        "--epochs",
        "1",
        "--batch-size",
        "32",
        "--seeds",
        "1",
    ]
    words += ["--learner", "mlp", "--no-tracking", "--quiet", "--out", str(tmp_path / "c")]

    def seconds(*policies):
        assert main([*words, "--policies", *policies]) == 0
        content = json.loads((tmp_path / "c" / "comparison.json").read_text())
        report = (tmp_path / "c" / "report.md").read_text()
        kept = [row["seconds"] for row in content["summary"]]
        assert [row["relative_seconds"] for row in content["summary"]].count(None) == (
            0 if "full" in policies and None not in kept else len(kept)
        )
        assert ("No seconds: the runs were trained by several commands" in report) == (None in kept)
        return kept

    assert None not in seconds("random", "full")
    assert None not in seconds("random", "full")  # nothing was trained again
    assert set(seconds("random", "full", "jest")) == {None}


def test_a_try_without_a_checkpoint_goes_on_with_its_record(tmp_path, tiny_npz, store_uri):
    (job,) = plan(comparison(tmp_path, tiny_npz, tracking=store_uri))
    first = run_job(replace(job, checkpoint_every=0))
    (job.folder / "result.json").unlink()  # as if it had been killed before
    second = run_job(replace(job, checkpoint_every=0))
    assert second["run_id"] == first["run_id"]
    delivered(store_uri, job.folder)
    steps = [step for step, _ in history(store_uri, job.folder, "val/accuracy")]
    assert steps == [row["step"] for row in first["history"]]


def test_a_run_whose_record_was_deleted_ends_all_the_same(tmp_path, tiny_npz, store_uri):
    (job,) = plan(comparison(tmp_path, tiny_npz, tracking=store_uri))
    run_job(replace(job, checkpoint_every=0))
    (job.folder / "result.json").unlink()
    client(store_uri).delete_run(delivered(store_uri, job.folder).info.run_id)
    assert run_job(replace(job, checkpoint_every=0))["status"] == "finished"
    with pytest.raises(ValueError, match="was deleted"):
        sync(job.folder)


def test_fresh_seeds_begin_where_they_are_told(tmp_path, tiny_npz):
    content = compare(comparison(tmp_path, tiny_npz, first_seed=3, seeds=2))
    assert [run["seed"] for run in content["runs"]] == [3, 4]


def refused(capsys, tiny_npz, *words):
    command = ["compare", "--policies", "random", "--dataset", tiny_npz, "--batch-size", "32"]
    assert main([*command, "--no-tracking", "--quiet", "--out", "o", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_ray_that_is_not_there_is_named(tmp_path, monkeypatch, tiny_npz, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'gstds[ray]'" in refused(capsys, tiny_npz, "--ray", "local")
    assert "drop one" in refused(capsys, tiny_npz, "--ray", "local", "--workers", "2")
    assert not (tmp_path / "o").exists()


def test_optuna_that_is_not_there_is_named(tmp_path, monkeypatch, tiny_npz, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = refused(capsys, tiny_npz, "--sweep", "keep=.2..0.8", "--sweep-optuna", "3")
    assert "pip install 'gstds[sweep]'" in said


@pytest.mark.slow
@pytest.mark.parametrize("address", ["ray://here:10001", "here", "here:door", ":6379"])
def test_addresses_that_are_none_are_refused(tmp_path, monkeypatch, tiny_npz, capsys, address):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    assert "must be host:port" in refused(capsys, tiny_npz, "--ray", address)


def test_a_run_leaves_the_number_of_threads_as_it_was(tmp_path, tiny_npz):
    import torch

    before = torch.get_num_threads()
    words = [
        "compare",
        "--policies",
        "full",
        "--seeds",
        "1",
        "--dataset",
        tiny_npz,
        "--epochs",
        "1",
    ]
    words += ["--batch-size", "16", "--no-tracking", "--no-controls", "--quiet"]
    try:
        torch.set_num_threads(3)  # neither one nor as many as there are cores here
        assert main([*words, "--out", str(tmp_path / "c")]) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
