"""NaN losses, damaged checkpoints, a clock set back, two processes in one run's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from gstds.common.state import latest_state
from gstds.envs import DataSelectionEnv
from gstds.train.cli.main import main
from gstds.train.running.folder import FolderInUseError
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from gstds.train.tracking.uploader import Upload
from tests.stops import StopAfter
from tests.stores import delivered, history

PLUGIN = """
import torch

class Network(torch.nn.Module):
    "Logits that are NaN, or whose gradient is, where the batch holds the brightest image."
    def __init__(self, shape, classes, where):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(),
            torch.nn.Linear(shape[0] * shape[1] * shape[2], 8), torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(), torch.nn.Linear(8, classes))
        self.where = where
    def forward(self, x):
        logits = self.layers(x * 1.0)
        if self.training and x.device.type != "meta" and float(x[:, 0, 7, 7].max()) > 3.5:
            if self.where == "forward":
                return self.layers(x * float("nan"))
            return logits + (logits.detach() * 0).masked_fill(logits < 1e9, 0) + \
                torch.sqrt((logits * 0)).sum()
        return logits

def forward(shape, classes): return Network(shape, classes, "forward")
def gradient(shape, classes): return Network(shape, classes, "gradient")
"""


@pytest.fixture
def spoiled(tmp_path, monkeypatch):
    """A data set of which one training image makes the networks of the plug-in fail."""
    (tmp_path / "spoiling.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("spoiling", None)
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    x = rng.integers(0, 60, size=(200, 8, 8))
    x[:, 7, 7] = 0
    data = DataSelectionEnv(dataset=saved(tmp_path, x, y), observe=(), reward="none").data
    x[data.train.rows[0], 7, 7] = 255
    return saved(tmp_path, x, y)


def saved(folder, x, y):
    np.savez(folder / "spoiled.npz", X=x.astype(np.uint8), y=y)
    return f"npz:{folder}/spoiled.npz"


def options(dataset, **more):
    given = {"dataset": dataset, "policy": "full", "batch_size": 16, "epochs": 3}
    return config_from(given | {"precision": "float32", "augment": False} | more)


@pytest.mark.parametrize("learner", ["spoiling:forward", "spoiling:gradient"])
def test_a_skipped_update_changes_nothing_and_is_counted(spoiled, learner):
    env = DataSelectionEnv(
        dataset=spoiled, learner=learner, on_nan="skip", batch_size=16, observe=(), augment=False
    )
    env.reset(seed=0)
    skipped = 0
    for _ in range(2 * env.steps_per_epoch):
        before = env.state_dict()["learner"]
        visits, spent = env.visits.copy(), env.ledger.charged_flops
        *_, info = env.step(np.ones(16, np.float32))
        if info["skipped"] > skipped:
            after = env.state_dict()["learner"]
            assert all(torch.equal(before["model"][k], after["model"][k]) for k in after["model"])
            assert not info["trained"].any()
            assert np.array_equal(visits, env.visits)
            assert env.ledger.charged_flops > spent
        skipped = info["skipped"]
        assert np.isfinite(info["train_loss"])
    assert skipped == 2


@pytest.mark.parametrize("steps", [1, 7, 14])
def test_a_run_that_skips_resumes_bit_for_bit(spoiled, tmp_path, steps, store_uri):
    config = options(spoiled, learner="spoiling:forward", on_nan="skip")
    whole = execute(config, tmp_path / "whole", upload=Upload(store_uri))
    assert (whole["status"], whole["skipped_updates"]) == ("finished", 3)
    execute(config, tmp_path / "cut", stop=StopAfter(2 * steps), checkpoint_every=1)
    again = execute(config, tmp_path / "cut", resume=True)
    same = ("weights_sha256", "skipped_updates", "test_loss", "charged_flops", "samples_trained")
    assert [again[name] for name in same] == [whole[name] for name in same]
    assert "train/skipped" in delivered(store_uri, tmp_path / "whole").data.metrics


def test_a_loss_that_is_not_finite_stops_the_run_with_a_good_checkpoint(spoiled, tmp_path):
    config = options(spoiled, learner="spoiling:forward")
    result = execute(config, tmp_path / "r", checkpoint_every=1)
    assert result["status"] == "diverged"
    state = latest_state(tmp_path / "r" / "checkpoints")
    # If the very first batch held the image, there is no step worth keeping.
    assert (state is None) == (result["steps"] == 1)
    assert state is None or all(
        v.isfinite().all() for v in state["env"]["learner"]["model"].values()
    )


def test_weights_that_are_not_finite_are_no_checkpoint(spoiled, tmp_path, caplog):
    config = options(spoiled, learner="spoiling:gradient")
    result = execute(config, tmp_path / "r", checkpoint_every=1)
    assert result["status"] == "diverged"
    assert "weights not finite" in caplog.text
    state = latest_state(tmp_path / "r" / "checkpoints")
    assert state is None or all(
        v.isfinite().all() for v in state["env"]["learner"]["model"].values()
    )


def test_a_run_that_skips_a_whole_epoch_has_diverged(tmp_path, tiny_npz):
    config = options(
        tiny_npz, learner="mlp", learning_rate=100.0, epochs=40, on_nan="skip", weight_decay=10.0
    )
    result = execute(config, tmp_path)
    assert result["status"] == "diverged"
    assert result["skipped_updates"] > 0
    json.dumps(result, allow_nan=False)


def test_an_unknown_way_with_nan_is_refused(tiny_npz, capsys):
    assert main(["run", "--dataset", tiny_npz, "--on-nan", "ignore", "--no-tracking"]) == 2
    assert "on_nan: unknown name 'ignore'" in capsys.readouterr().err


# Checkpoints


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_the_way_from_the_one_before(tiny_npz, tmp_path, caplog):
    config = options(tiny_npz, policy="random")
    whole = execute(config, tmp_path / "whole")
    rng = np.random.default_rng(0)
    for case in range(6):
        folder = tmp_path / str(case)
        execute(config, folder, stop=StopAfter(14), checkpoint_every=2)
        checkpoints = sorted((folder / "checkpoints").iterdir())
        assert len(checkpoints) == 4
        path = checkpoints[2 + case % 2]  # the newest, its JSON or its arrays
        data = bytearray(path.read_bytes())
        if case < 2:
            del data[int(rng.integers(len(data))) :]
        else:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        again = execute(config, folder, resume=True)
        assert again["weights_sha256"] == whole["weights_sha256"]
        assert "the one before it is taken" in caplog.text


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tiny_npz, tmp_path, capsys):
    config = options(tiny_npz, policy="random")
    execute(config, tmp_path / "r", stop=StopAfter(8), checkpoint_every=2)
    for path in (tmp_path / "r" / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert main(["run", "--resume", str(tmp_path / "r"), "--no-tracking", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "every checkpoint in" in error
    assert "delete the folder to start over" in error


def test_a_checkpoint_of_another_run_is_refused_by_name(tiny_npz, tmp_path):
    from gstds.train.running.run import RunFailedError

    execute(
        options(tiny_npz, policy="random"), tmp_path / "a", stop=StopAfter(8), checkpoint_every=2
    )
    other = options(tiny_npz, policy="random", learner="small-cnn", optimizer="adamw")
    execute(other, tmp_path / "b", stop=StopAfter(2), checkpoint_every=2)
    for path in (tmp_path / "b" / "checkpoints").iterdir():
        path.unlink()
    for path in (tmp_path / "a" / "checkpoints").iterdir():
        (tmp_path / "b" / "checkpoints" / path.name).write_bytes(path.read_bytes())
    config = options(tiny_npz, policy="random", learner="mlp")
    with pytest.raises(RunFailedError, match="does not fit this run"):
        execute(config, tmp_path / "b", resume=True)


# The clock


@pytest.mark.parametrize("shift", [-86_400.0, -1e9, 86_400.0])
def test_a_clock_that_jumps_changes_no_weight_and_loses_no_point(
    tiny_npz, tmp_path, monkeypatch, store_uri, shift
):
    config = options(tiny_npz, policy="random")
    whole = execute(config, tmp_path / "whole")
    execute(
        config,
        tmp_path / "cut",
        upload=Upload(store_uri),
        stop=StopAfter(12),
        checkpoint_every=1,
    )
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    again = execute(config, tmp_path / "cut", upload=Upload(store_uri), resume=True)
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert again["seconds"] >= 0
    delivered(store_uri, tmp_path / "cut")
    steps = [step for step, _ in history(store_uri, tmp_path / "cut")]
    assert steps == list(range(1, again["steps"] + 1))


# Two processes


TWICE = """
import sys
from gstds.train.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_folder_in_which_a_run_goes_on_is_refused(tiny_npz, tmp_path):
    config = options(tiny_npz, policy="random")
    inside = []

    def progress(phase, done, total):
        if phase == "training" and not inside:
            inside.append(done)
            for resume in (False, True):
                with pytest.raises(FolderInUseError, match="another process"):
                    execute(config, tmp_path / "r", resume=resume)

    result = execute(config, tmp_path / "r", progress=progress)
    assert inside
    assert result["status"] == "finished"
    assert not list((tmp_path / "r").glob("*.lock"))


@pytest.mark.slow
def test_of_two_processes_that_start_one_run_one_does_it(tiny_npz, tmp_path):
    words = ["run", "--dataset", tiny_npz, "--policy", "random", "--batch-size", "4"]
    words += ["--epochs", "20", "--out", str(tmp_path / "r"), "--no-tracking", "--quiet"]
    command = [sys.executable, "-c", textwrap.dedent(TWICE), *words]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process: the last bits differ
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=one_thread)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    if codes != [0, 0]:  # one came while the other ran
        assert sorted(codes) == [0, 2]
        assert "another process" in "".join(said)
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["status"] == "finished"
    assert (
        result["weights_sha256"]
        == execute(
            options(
                tiny_npz, policy="random", batch_size=4, epochs=20, precision="auto", augment=None
            ),
            tmp_path / "alone",
        )["weights_sha256"]
    )
