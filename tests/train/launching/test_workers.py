"""Worker processes that are killed, a parent that is killed, and signals: all for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gstds.train.comparing.compare import Comparison, compare
from gstds.train.launching import jobs as workers
from gstds.train.launching.jobs import Watch
from gstds.train.running.options import RunConfig
from gstds.train.tracking.store import client
from gstds.train.tracking.uploader import sync
from tests.stores import stored

pytestmark = pytest.mark.slow

EPOCHS = "40"
ROWS = ["random", "full"]


def command(tiny_npz, out, *more):
    words = [
        sys.executable,
        "-m",
        "gstds.train.cli.main",
        "compare",
        "--policies",
        *ROWS,
        "--seeds",
        "2",
    ]
    words += ["--threads", "1"]
    words += ["--dataset", tiny_npz, "--batch-size", "16", "--learner", "mlp"]
    words += [
        "--learning-rate",
        "0.01",
        "--epochs",
        EPOCHS,
        "--checkpoint-every",
        "25",
        "--no-controls",
        "--no-model",
    ]
    return [*words, "--out", out, "--json", f"{out}.json", *more]


def start(folder, words, **more):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def finish(process, code):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert "Traceback" not in err, err
    return out + err


def runs(folder, name):
    content = json.loads((folder / f"{name}.json").read_text())
    return {(run["policy"], run["seed"]): run for run in content["runs"]}


def children(pid):
    """The worker processes of a parent: those that its fork server made."""
    processes = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            processes[int(place.name)] = parent, (place / "cmdline").read_text()
        except OSError:
            continue
    servers = [p for p, (up, words) in processes.items() if up == pid and "forkserver" in words]
    return sorted(p for p, (up, _) in processes.items() if up in servers)


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def checkpoints(folder, name):
    return list((folder / name).glob("runs/*/checkpoints/*.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The runs of a comparison that nothing happened to."""
    import numpy as np

    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    x = rng.integers(0, 60, size=(200, 8, 8))
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2] += 150
    np.savez(folder / "tiny.npz", X=x.astype(np.uint8), y=y)
    data = f"npz:{folder / 'tiny.npz'}"
    finish(start(folder, command(data, "whole", "--no-tracking")), 0)
    return data, {key: run["weights_sha256"] for key, run in runs(folder, "whole").items()}


def same(found, whole):
    assert {key: run["weights_sha256"] for key, run in found.items()} == whole
    assert {run["status"] for run in found.values()} == {"finished"}


def assert_logged_once(uri, place, found):
    """Every run is there once, and has each step of each metric once."""
    sync(place)
    store = client(uri)
    (experiment,) = [e for e in store.search_experiments() if e.name == "gstds"]
    there = store.search_runs([experiment.experiment_id])
    names = [run.data.tags["policy"] for run in there if "seed" in run.data.tags]
    assert sorted(names) == sorted(ROWS * 2)
    for run in found.values():
        record = stored(uri, place, run)
        assert record.info.status == "FINISHED"
        for key in ("train/loss", "val/accuracy", "selection/keep_ratio"):
            steps = [point.step for point in store.get_metric_history(record.info.run_id, key)]
            assert len(steps) == len(set(steps)) > 1
        history = store.get_metric_history(record.info.run_id, "val/accuracy")
        assert [row["step"] for row in run["history"]] == sorted(p.step for p in history)


def test_a_killed_worker_costs_the_way_back_to_a_checkpoint(tmp_path, whole, store_uri):
    data, weights = whole
    words = command(data, "cut", "--workers", "2", "--tracking-uri", store_uri)
    process = start(tmp_path, words)
    wait_for(lambda: checkpoints(tmp_path, "cut"), process)
    victims = children(process.pid)
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    said = finish(process, 0)
    assert "was killed by SIGKILL (out of memory?); going on" in said
    found = runs(tmp_path, "cut")
    same(found, weights)
    assert_logged_once(store_uri, tmp_path, found)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_comparison_goes_on_where_it_was(tmp_path, whole, store_uri, stop):
    data, weights = whole
    words = command(data, "cut", "--workers", "2", "--tracking-uri", store_uri)
    process = start(tmp_path, words, start_new_session=True)
    results = tmp_path / "cut" / "runs"
    wait_for(lambda: list(results.glob("*/result.json")), process)
    workers = children(process.pid)
    if stop == signal.SIGINT:  # as a terminal does it: to everybody
        os.killpg(process.pid, stop)
    else:
        process.send_signal(stop)
    said = finish(process, -9 if stop == signal.SIGKILL else 130)
    assert stop == signal.SIGKILL or "goes on" in said
    done = {
        path.parent.name: path.read_bytes()
        for path in results.glob("*/result.json")
        if json.loads(path.read_text())["status"] == "finished"
    }
    assert done
    finish(start(tmp_path, words), 0)  # at once: what the dead parent left may still be saving
    for name, content in done.items():
        assert (results / name / "result.json").read_bytes() == content
    found = runs(tmp_path, "cut")
    same(found, weights)
    assert_logged_once(store_uri, tmp_path, found)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_run_that_kills_its_process_each_time_fails_alone(tmp_path, tiny_npz):
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        "from gstds.policies import Policy\n"
        "class Deadly(Policy):\n"
        "    def act(self, observation):\n"
        "        if observation['progress'][0] > 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return observation['valid']\n"
    )
    words = command(tiny_npz, "d", "--workers", "2", "--no-tracking", "--baseline", "random")
    words[words.index("full")] = "deadly:Deadly"
    words[words.index("--epochs") + 1] = "2"
    said = finish(start(tmp_path, words), 1)
    assert "try 3 of 3" in said
    found = runs(tmp_path, "d")
    assert {key[0] for key, run in found.items() if run["status"] == "finished"} == {"random"}
    for seed in (0, 1):
        lost = found["deadly:Deadly", seed]
        assert lost["status"] == "failed"
        assert "SIGKILL" in lost["error"]
        assert "3 times" in lost["error"]


def test_a_run_killed_before_its_first_checkpoint_keeps_its_record(tmp_path, whole, store_uri):
    data, weights = whole
    words = command(data, "cut", "--tracking-uri", store_uri)
    words[words.index("--checkpoint-every") + 1] = "0"
    process = start(tmp_path, words)
    wait_for(lambda: list((tmp_path / "cut").glob("runs/*/log.jsonl")), process)
    time.sleep(1.0)
    process.kill()
    finish(process, -9)
    finish(start(tmp_path, words), 0)
    found = runs(tmp_path, "cut")
    same(found, weights)
    assert_logged_once(store_uri, tmp_path, found)


def test_workers_import_nothing_of_the_working_folder_unasked(tmp_path, tiny_npz):
    for name in ("PIL", "alembic", "random", "mlflow"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    gstds = Path(sys.executable).with_name("gstds")
    words = [str(gstds), *command(tiny_npz, "c", "--workers", "2", "--no-tracking")[3:]]
    words[words.index("--epochs") + 1] = "2"
    finish(start(tmp_path, words), 0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_have_the_environment_and_the_folder_of_now(
    tmp_path, tiny_npz, monkeypatch, method
):
    monkeypatch.setattr(workers, "start_method", lambda: method)
    workers.warm_up(1)  # a server has the environment of the moment when it began
    monkeypatch.setenv("SEEN_BY_WORKERS", method)
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"telling_{method}.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from gstds.policies.uninformed.uniform import Full\n"
        "class Telling(Full):\n"
        "    def act(self, observation):\n"
        "        Path(f'worker-{os.getpid()}').write_text(os.environ['SEEN_BY_WORKERS'])\n"
        "        return super().act(observation)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    base = RunConfig(dataset=tiny_npz, batch_size=32, epochs=1, learner="mlp", learning_rate=0.01)
    name = f"telling_{method}:Telling"
    content = compare(
        Comparison(
            base=base, policies=(name,), seeds=2, baseline=name, workers=2, name="c",
            folder=tmp_path / "c", tracking=None, experiment="gstds", controls=False,
        )
    )  # fmt: skip
    assert {run["status"] for run in content["runs"]} == {"finished"}
    told = {path.name: path.read_text() for path in tmp_path.glob("worker-*")}
    assert set(told.values()) == {method}
    told.pop(f"worker-{os.getpid()}", None)  # where the policy is asked before any run
    assert len(told) == 2


def test_a_worker_tells_what_it_does_before_its_run_has_a_log(tmp_path, tiny_npz, monkeypatch):
    (tmp_path / "rows_of.py").write_text(
        "def images():\n    return lambda images: images.float().mean(3).flatten(1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    # What is prepared beforehand is not done by a worker.
    prepared = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("gstds.train.comparing.runs.make_env", lambda *words, **more: prepared)
    told, watch = [], Watch()
    watch.moved = lambda job, phase, *more: told.append(phase)
    base = RunConfig(dataset=tiny_npz, batch_size=32, epochs=1, reference="rows_of:images")
    content = compare(
        Comparison(
            base=base, policies=("gstds",), seeds=1, workers=2, name="c", folder=tmp_path / "c",
            controls=False,
        ),
        watch=watch,
    )  # fmt: skip
    assert [run["status"] for run in content["runs"]] == ["finished"]
    assert told[0] == "starting"
    assert "reference features" in told
