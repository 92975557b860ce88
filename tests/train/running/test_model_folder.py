"""``model/``: what a run leaves to be used."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch

import gstds
from gstds.common.checksummed_json import read_sealed, write_sealed
from gstds.common.state import state_digest
from gstds.envs.batches.loader import normalize
from gstds.envs.data.datasets import load_data
from gstds.train.running.options import config_from
from gstds.train.running.run import RunFailedError, execute
from tests.stops import StopAfter


def config(dataset, **options):
    return config_from(
        {"dataset": dataset, "policy": "random", "epochs": 2, "batch_size": 32} | options
    )


def digest(folder):
    return state_digest(gstds.load_learner(folder).state_dict())


@torch.inference_mode()
def test_accuracy(model, dataset):
    test = load_data(dataset).test
    answers = model(test.gather(np.arange(len(test)))).argmax(1).numpy()
    return float((answers == test.labels).mean())


test_accuracy.__test__ = False


NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.body = nn.Linear(shape[0] * shape[1] * shape[2], 16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, classes)
        self.twin = self.head

    def forward(self, images):
        return self.head(self.drop(torch.tanh(self.body(images.view(len(images), -1)))))

def make(shape, classes):
    return Net(shape, classes)
"""


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    """A network in a folder that only the run's process knew of."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "own_net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    yield "own_net:make"
    sys.modules.pop("own_net", None)


@pytest.mark.parametrize("learner", ["small-cnn", "mlp", "own_net:make"])
def test_a_run_leaves_the_network_that_it_reports_on(
    tiny_npz, tmp_path, learner, own_network, monkeypatch
):
    result = execute(config(tiny_npz, learner=learner), tmp_path / "r")
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("own_net", None)
    model = gstds.load_learner(tmp_path / "r")
    assert not model.training
    assert state_digest(model.state_dict()) == result["weights_sha256"]
    assert test_accuracy(model, tiny_npz) == result["test_accuracy"] > 0.5
    note = read_sealed(tmp_path / "r" / "model" / "model.json")
    assert note["class_names"] == ["0", "1", "2", "3"]
    assert note["shape"] == [1, 8, 8]
    assert note["run_id"] == result["run_id"]


def test_pixels_and_normalized_images_are_one_input(tiny_npz, tmp_path):
    execute(config(tiny_npz), tmp_path)
    model, data = gstds.load_learner(tmp_path), load_data(tiny_npz)
    images = data.test.gather(np.arange(9))
    floats = normalize(images, data.mean, data.std)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), model(floats), rtol=0, atol=1e-6)


def test_the_test_part_is_evaluated_as_the_network_is_used(tiny_npz, tmp_path):
    result = execute(config(tiny_npz, precision="bfloat16"), tmp_path)
    model, test = gstds.load_learner(tmp_path), load_data(tiny_npz).test
    with torch.inference_mode():
        logits = model(test.gather(np.arange(len(test))))
    labels = torch.from_numpy(test.labels)
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    assert result["test_loss"] == pytest.approx(loss, rel=1e-6)  # bfloat16 has 3 digits


def test_a_stopped_run_leaves_its_network_and_a_resumed_one_the_last(tiny_npz, tmp_path):
    options = config(tiny_npz, epochs=3)
    part = execute(options, tmp_path / "r", stop=StopAfter(5), checkpoint_every=2)
    assert part["status"] == "interrupted"
    assert digest(tmp_path / "r") == part["weights_sha256"]
    whole = execute(options, tmp_path / "r", resume=True)
    assert digest(tmp_path / "r") == whole["weights_sha256"] != part["weights_sha256"]
    shutil.rmtree(tmp_path / "r" / "model")
    execute(config(tiny_npz, seed=1), tmp_path / "r", stop=StopAfter(0))
    assert digest(tmp_path / "r") != whole["weights_sha256"]


def test_a_run_begun_anew_leaves_nothing_of_the_old_one(tiny_npz, tmp_path, monkeypatch):
    execute(config(tiny_npz), tmp_path)

    def dies(*words, **more):
        raise SystemError

    monkeypatch.setattr("gstds.train.running.record.Record.begin", dies)
    with pytest.raises(SystemError):
        execute(config(tiny_npz), tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_failed_run_leaves_its_network_too(tiny_npz, tmp_path, monkeypatch):
    real = gstds.train.running.record.Record.step

    def fails(record, info, weights, **more):
        if info["step"] == 3:
            raise ZeroDivisionError
        real(record, info, weights, **more)

    monkeypatch.setattr("gstds.train.running.record.Record.step", fails)
    with pytest.raises(RunFailedError) as failure:
        execute(config(tiny_npz), tmp_path)
    assert digest(tmp_path) == failure.value.result["weights_sha256"]


def test_the_network_stands_there_before_the_result(tiny_npz, tmp_path, monkeypatch):
    def full(*words, **more):
        assert not (tmp_path / "result.json").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gstds.envs.task.network.write_bytes", full)
    with pytest.raises(RunFailedError, match="gstds run --resume"):
        execute(config(tiny_npz), tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "model" / "model.json").exists()


def test_a_run_that_diverged_has_a_network_that_says_so(tiny_npz, tmp_path):
    result = execute(config(tiny_npz, learning_rate=100.0, learner="mlp"), tmp_path)
    assert result["status"] == "diverged"
    with pytest.raises(ValueError, match="are not finite: the run diverged"):
        gstds.load_learner(tmp_path)


def test_what_is_no_run_or_has_no_network_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor the id of a run"):
        gstds.load_learner("absent")
    with pytest.raises(FileNotFoundError, match=r"holds no network .* of release 0\.1"):
        gstds.load_learner(tmp_path)


def test_damage_is_found_before_anything_is_built(tiny_npz, tmp_path):
    execute(config(tiny_npz), tmp_path)
    weights, note = (tmp_path / "model" / n for n in ("weights.safetensors", "model.json"))
    whole, told = weights.read_bytes(), note.read_text()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\x80\x04."):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be used"):
            gstds.load_learner(tmp_path)
    weights.write_bytes(whole)
    note.write_text(told.replace('"classification"', '"regression"'))
    with pytest.raises(ValueError, match="its seal does not match"):
        gstds.load_learner(tmp_path)
    content = json.loads(told)
    del content["seal"]
    for change in ({"version": 2}, {"inputs": "sounds"}):
        write_sealed(note, content | change)
        with pytest.raises(ValueError, match="a release that this one does not know"):
            gstds.load_learner(tmp_path)
    for change in ({"shape": 3}, {"std": [0]}, {"class_names": None}, {"mean": "x"}):
        write_sealed(note, content | change)
        with pytest.raises(ValueError, match="cannot be used"):
            gstds.load_learner(tmp_path)
    write_sealed(note, content | {"learner": "mlp"})
    with pytest.raises(ValueError, match=r"cannot be used: Error\(s\) in loading"):
        gstds.load_learner(tmp_path)


def test_a_network_of_ones_own_that_changed_is_told_and_another_of_its_name_refused(
    tiny_npz, tmp_path, own_network, caplog
):
    execute(config(tiny_npz, learner=own_network), tmp_path / "r")
    file = tmp_path / "project" / "own_net.py"
    file.write_text(NETWORK.replace("tanh", "relu"))
    sys.modules.pop("own_net")
    gstds.load_learner(tmp_path / "r")
    assert "has changed since the run" in caplog.text
    file.write_text(NETWORK.replace("16", "8"))
    sys.modules.pop("own_net")
    with pytest.raises(ValueError, match=r"cannot be used: Error\(s\) in loading"):
        gstds.load_learner(tmp_path / "r")
    other = tmp_path / "other"
    other.mkdir()
    shutil.move(file, other / "own_net.py")
    sys.modules.pop("own_net")
    sys.path.insert(0, str(other))
    with pytest.raises(ValueError, match="or is hidden by that in"):
        gstds.load_learner(tmp_path / "r")
    sys.path.remove(str(other))
    sys.modules.pop("own_net")
    with pytest.raises(ValueError, match="no module 'own_net'"):
        gstds.load_learner(tmp_path / "r")
