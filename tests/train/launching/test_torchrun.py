"""One run by two processes of torchrun: what one process with the same drawn batches would get."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gstds.common.state import latest_state
from gstds.envs import DataSelectionEnv
from gstds.envs.learner.models import build_model
from gstds.train.cli.main import main

PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

PLUGINS = """
import os
import torch
from gstds.policies import Policy
import numpy as np

class Few(Policy):
    def act(self, observation):
        weights = np.zeros(len(observation["valid"]), np.float32)
        step = int(round(float(observation["progress"][0]) * 60))
        weights[: step % 4] = 0.5  # none, one, two, three
        return weights

class Spoiled(torch.nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, classes))

    def forward(self, x):
        logits = self.layers(x * 1.0)
        bright = x.device.type != "meta" and bool((x[:, 0, 7, 7] > 2).any())
        return logits * float("nan") if self.training and bright else logits

class OfProcess(Policy):
    def act(self, observation):
        weights = np.zeros(len(observation["valid"]), np.float32)
        weights[int(os.environ.get("RANK", 0)) :][:8] = 1
        return weights
"""


@pytest.fixture
def folder(tmp_path, tiny_npz):
    (tmp_path / "plug.py").write_text(PLUGINS)
    return tmp_path


def words(out, *more, policy="loss-gap", learner="small-cnn"):
    chosen = ["--dataset", "npz:tiny.npz", "--policy", policy, "--learner", learner]
    fixed = ["--batch-size", "32", "--epochs", "6", "--precision", "float32", "--device", "cpu"]
    rate = ["--learning-rate", "0.02", "--checkpoint-every", "1000"]
    return ["run", *chosen, *fixed, *rate, "--no-tracking", "--quiet", "--out", out, *more]


def start(folder, command, processes=2):
    place = [*PROCESSES, str(processes)] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *place, "-m", "gstds.train.cli.main", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=170)
    assert process.returncode == code, out + err
    return out + err


def result_of(folder, name):
    return json.loads((folder / name / "result.json").read_text())


def weights_of(folder, name):
    return latest_state(folder / name / "checkpoints")["env"]["learner"]["model"]


def compare(folder, *more, tolerance, **options):
    """Train by one process and by two, up to a checkpoint at the step before the last."""
    for name, count in (("one", 1), ("two", 2)):
        command = words(name, *more, **options)
        command[command.index("--checkpoint-every") + 1] = "5"
        finish(start(folder, command, count))
    one, two = result_of(folder, "one"), result_of(folder, "two")
    assert (one["processes"], two["processes"]) == (1, 2)
    for name in ("status", "steps", "samples_trained", "mean_keep", "charged_flops"):
        assert one[name] == two[name], name
    assert one["status"] == "finished"
    for name in ("test_loss", "train_loss"):
        assert two[name] == pytest.approx(one[name], rel=tolerance)
    assert two["test_accuracy"] == one["test_accuracy"]
    mine, other = weights_of(folder, "one"), weights_of(folder, "two")
    assert set(mine) == set(other)
    for name in mine:
        a, b = mine[name].double(), other[name].double()
        assert float((a - b).abs().max()) <= tolerance * max(1.0, float(a.abs().max())), name
    first = build_model(options.get("learner", "small-cnn"), (1, 8, 8), 4, 0).state_dict()
    moved = max(float((mine[n].double() - first[n].double()).abs().max()) for n in mine)
    assert moved > 100 * tolerance  # it was trained
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["small-cnn", "mlp"])
def test_two_processes_train_as_one(folder, learner):
    compare(folder, tolerance=1e-4, learner=learner)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "shards", "more"),
    [
        ("gstds", 2, ["--reference", "untrained"]),  # each process solves one graph
        ("big-loss", 3, []),  # one forwards two of three shards
        ("divbs", 2, ["--pack"]),
    ],
)
def test_shards_are_scored_apart_and_give_what_one_process_gives(folder, policy, shards, more):
    more = ["--shards", str(shards), *more]
    compare(folder, *more, tolerance=1e-4, policy=policy, learner="mlp")


@pytest.mark.slow
def test_fewer_kept_samples_than_processes_train_as_one(folder):
    compare(folder, tolerance=1e-4, policy="plug:Few", learner="mlp")
    compare(folder, tolerance=1e-4, policy="plug:Few")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_skips_the_update_in_both(folder):
    content = dict(np.load(folder / "tiny.npz"))
    content["X"][:, 7, 7] = 0
    np.savez(folder / "tiny.npz", **content)
    train = DataSelectionEnv(dataset=f"npz:{folder}/tiny.npz", observe=(), reward="none").data.train
    content["X"][train.rows[0], 7, 7] = 255
    np.savez(folder / "tiny.npz", **content)
    more = ["--on-nan", "skip", "--no-augment"]
    for name, count in (("one", 1), ("two", 2)):
        command = words(name, *more, policy="full", learner="plug:Spoiled")
        finish(start(folder, command, count))
    one, two = result_of(folder, "one"), result_of(folder, "two")
    assert one["skipped_updates"] == 6  # one of each epoch's: half of them met by each process
    for name in ("status", "steps", "samples_trained", "skipped_updates", "charged_flops"):
        assert one[name] == two[name], name
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4)


@pytest.mark.slow
def test_a_stopped_run_of_two_goes_on_to_the_same_bits(folder):
    finish(start(folder, words("whole", "--epochs", "40")))
    process = start(folder, words("cut", "--epochs", "40", "--checkpoint-every", "2"))
    end = time.monotonic() + 120
    while not list((folder / "cut").glob("checkpoints/*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    if not (folder / "cut" / "result.json").exists() or (
        result_of(folder, "cut")["status"] != "finished"
    ):
        finish(start(folder, ["run", "--resume", "cut", "--quiet"]))
    whole, cut = result_of(folder, "whole"), result_of(folder, "cut")
    assert cut["weights_sha256"] == whole["weights_sha256"]
    assert cut["history"][-1]["val_loss"] == whole["history"][-1]["val_loss"]


@pytest.mark.slow
def test_processes_that_choose_differently_are_told(folder):
    said = finish(start(folder, words("out", policy="plug:OfProcess")), 1)
    assert "step 0: process 1 gives other weights than process 0" in said
    assert result_of(folder, "out")["status"] == "failed"


@pytest.mark.slow
def test_what_one_process_finds_wrong_is_told_and_the_other_says_where_to_look(folder):
    said = finish(start(folder, words("out", "--dataset", "nope")), 1)
    lines = [line for line in said.splitlines() if line.startswith("gstds:")]
    assert "gstds: error: dataset: unknown name 'nope'" in "\n".join(lines)
    for line in lines:  # the other one may have been ended before it could speak
        assert "unknown name 'nope'" in line or "(process 1) another process" in line
    assert not (folder / "out").exists()


def launched(monkeypatch, size):
    values = {"RANK": "0", "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("size", "more", "message"),
    [
        ("33", [], "batch_size must be at least the number of processes, 33, got 32"),
        ("2", ["--backend", "nccl"], "--backend 'nccl' is"),
        ("2", ["--backend", "smoke"], "--backend must be one of auto, gloo, nccl, got 'smoke'"),
        ("two", [], "WORLD_SIZE must be a whole number, got 'two'"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(folder, monkeypatch, capsys, size, more, message):
    monkeypatch.chdir(folder)
    launched(monkeypatch, size)
    assert main(words("out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists()


@pytest.mark.parametrize("command", [["compare"], ["features"], ["list", "policies"]])
def test_torchrun_is_for_one_run(monkeypatch, capsys, command):
    launched(monkeypatch, "2")
    assert main(command) == 2
    assert f"torchrun starts 2 processes of gstds {command[0]}" in capsys.readouterr().err


def test_one_process_of_torchrun_is_a_plain_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    launched(monkeypatch, "1")
    assert main(words("out", learner="mlp")) == 0
    assert result_of(folder, "out")["processes"] == 1
