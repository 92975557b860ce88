"""``gstds predict`` and ``gstds export``: what a run's network is used for."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from gstds.common.state import state_digest
from gstds.envs.batches.loader import normalize
from gstds.envs.data.datasets import load_data
from gstds.envs.learner.models import build_model
from gstds.train.cli.main import main
from gstds.train.running.options import config_from
from gstds.train.running.run import execute


def trained(dataset, folder, **options):
    plain = {"policy": "random", "epochs": 2, "batch_size": 32, "dataset": dataset}
    return execute(config_from(plain | options), folder)


def test_part(dataset, **options):
    test = load_data(dataset, **options).test
    return test.gather(np.arange(len(test))).numpy(), test.labels


test_part.__test__ = False


def answers(run, *inputs):
    """Return the rows that ``gstds predict`` writes."""
    path = run / "answers.json"
    assert main(["predict", str(run), *map(str, inputs), "--json", str(path)]) == 0
    return json.loads(path.read_text())["predictions"]


def write_png(folder, name, image):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.moveaxis(image, 0, -1).squeeze()).save(folder / name)


def test_the_test_part_of_digits_gets_the_accuracy_of_the_result(tmp_path, capsys):
    result = trained("digits", tmp_path / "r", limit=600)
    images, labels = test_part("digits", limit=600)
    np.savez(tmp_path / "test.npz", X=images, y=labels)
    for i, image in enumerate(images):
        write_png(tmp_path / "test", f"{i:04}.png", image)
    for place in ("test.npz", "test"):
        rows = answers(tmp_path / "r", tmp_path / place)
        right = [row["index"] == label for row, label in zip(rows, labels, strict=True)]
        assert sum(right) / len(right) == result["test_accuracy"] > 0.2
        assert all(row["class"] == str(row["index"]) for row in rows)
        assert all(0.1 <= row["probability"] <= 1 for row in rows)
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'test.npz'}:X[7]" in printed
    assert printed.startswith("input ")


def test_photographs_are_read_as_those_of_the_data_set(tmp_path):
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 20)):
        for at, name in enumerate(("cat", "dog")):
            for i in range(count):
                image = random.integers(0, 120, size=(3, 19 + i % 5, 23), dtype=np.uint8)
                image[at] += 100
                write_png(tmp_path / "data" / part / name, f"{i:02}.png", image)
    result = trained(f"folder:{tmp_path / 'data'}", tmp_path / "r", image_size=16, epochs=1)
    rows = answers(tmp_path / "r", tmp_path / "data" / "test")
    right = [row["class"] in row["input"] for row in rows]
    assert len(rows) == 40
    assert sum(right) / len(right) == result["test_accuracy"]
    one = tmp_path / "data" / "test" / "dog" / "00.png"
    assert answers(tmp_path / "r", one, one) == [r for r in rows if r["input"] == str(one)] * 2


def test_what_cannot_be_looked_at_is_refused_in_one_line(tiny_npz, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained(tiny_npz, tmp_path / "r")
    np.savez("large.npz", X=np.zeros((2, 9, 9), np.uint8))
    np.savez("floats.npz", X=np.zeros((2, 8, 8)))
    np.savez("none.npz", a=np.zeros(3))
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("no image")
    for path, told in {
        "large.npz": "images of shape (1, 9, 9), the network takes (C, H, W) = (1, 8, 8)",
        "floats.npz": "X must be a uint8 array",
        "none.npz": "none.npz holds no images",
        "empty": "empty holds no images",
        "note.txt": "note.txt: damaged image",
        "absent.png": "input 'absent.png' is not there; give images",
        "absent.npz": "input 'absent.npz' is not there; give images",
        "r/config.json": "config.json: damaged image",
    }.items():
        assert main(["predict", "r", path]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert main(["predict", "absent", "large.npz"]) == 2
    assert "run 'absent' is neither a folder nor the id of a run" in capsys.readouterr().err


def test_a_color_image_is_gray_to_a_network_of_gray_images_and_gray_stays_gray(tiny_npz, tmp_path):
    trained(tiny_npz, tmp_path / "r")
    images = np.random.default_rng(0).integers(0, 256, size=(50, 8, 8, 3), dtype=np.uint8)
    gray = np.rint(images.mean(axis=-1)).astype(np.uint8)
    np.savez(tmp_path / "color.npz", X=images)
    np.savez(tmp_path / "both.npz", X=np.repeat(gray[..., None], 3, axis=-1))
    np.savez(tmp_path / "gray.npz", X=gray)
    files = [tmp_path / f"{name}.npz" for name in ("color", "both", "gray")]
    rows = answers(tmp_path / "r", *files)
    shares = np.array([row["probability"] for row in rows]).reshape(3, 50)
    np.testing.assert_array_equal(shares[0], shares[1])
    np.testing.assert_array_equal(shares[0], shares[2])


@pytest.mark.parametrize("count", [1, 512, 513])
def test_more_images_than_one_batch(tiny_npz, tmp_path, count):
    trained(tiny_npz, tmp_path / "r")
    images = np.arange(count * 64, dtype=np.uint64).astype(np.uint8).reshape(count, 8, 8)
    np.savez(tmp_path / "many.npz", X=images)
    rows = answers(tmp_path / "r", tmp_path / "many.npz")
    assert [row["input"] for row in rows] == [f"{tmp_path}/many.npz:X[{i}]" for i in range(count)]


# ---------------------------------------------------------------------------------- export

NETWORKS = """
from torch import nn

class Rigid(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(64, classes)

    def forward(self, images):
        logits = self.head(images.flatten(1))
        return logits * (1.0 if len(images) != 2 else 2.0)

def rigid(shape, classes):
    return Rigid(classes)

def own(shape, classes):
    layers = [nn.Conv2d(shape[0], 6, 3), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(24, classes))
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "nets_of_use.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("nets_of_use", None)


def colors(folder):
    """Colored images (60, 9, 12, 3) in three classes, which their tint tells."""
    random = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = random.integers(0, 150, size=(240, 9, 12, 3))
    images[np.arange(240), :, :, labels] += 60
    np.savez(folder / "colors.npz", X=images.astype(np.uint8), y=labels)
    return f"npz:{folder / 'colors.npz'}"


def photographs(folder):
    """The same as files, larger than they are handed out."""
    images, labels = np.load(folder / "colors.npz")["X"], np.load(folder / "colors.npz")["y"]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        write_png(folder / "photos" / f"tint{label}", f"{i:03}.png", np.moveaxis(image, -1, 0))
    return f"folder:{folder / 'photos'}"


def asked(form, path, images):
    """Return the logits of an exported network, by its own library alone."""
    if form == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        assert [one.name for one in session.get_outputs()] == ["logits"]
        return session.run(None, {"images": images})[0]
    model = torch.jit.load(path) if form == "torchscript" else torch.export.load(path).module()
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gray", "color", "photographs"])
def test_exported_networks_give_the_accuracy_of_the_result(tmp_path, networks, kind):
    colored = colors(tmp_path)
    dataset, options = {
        "gray": ("digits", {"epochs": 5}),
        "color": (colored, {"learner": "nets_of_use:own", "learning_rate": 0.02}),
        "photographs": (photographs(tmp_path), {"learner": "resnet18", "learning_rate": 0.01}),
    }[kind]
    known = {"image_size": 8} if kind == "photographs" else {}
    result = trained(dataset, tmp_path / "r", **options, **known)
    images, labels = test_part(dataset, **known)
    for form in ("torchscript", "pt2", "onnx"):
        if form == "onnx":
            pytest.importorskip("onnxscript")
        path = tmp_path / f"network.{form}"
        assert main(["export", str(tmp_path / "r"), "--to", form, str(path)]) == 0
        logits = asked(form, path, images)
        assert float((logits.argmax(1) == labels).mean()) == result["test_accuracy"], form
        one = asked(form, path, images[:1])
        np.testing.assert_allclose(one, logits[:1], rtol=1e-3, atol=1e-4)


def test_weights_are_exported_with_what_rebuilds_the_network(tmp_path, tiny_npz):
    result = trained(tiny_npz, tmp_path / "r")
    path = tmp_path / "deep" / "w.safetensors"
    assert main(["export", str(tmp_path / "r"), "--to", "safetensors", str(path)]) == 0
    with safe_open(path, "pt") as file:
        note = json.loads(file.metadata()["gstds"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert state_digest(weights) == note["weights_sha256"] == result["weights_sha256"]
    model = build_model(note["learner"], tuple(note["shape"]), len(note["class_names"]), 0).eval()
    model.load_state_dict(weights)
    images, labels = test_part(tiny_npz)
    floats = normalize(torch.from_numpy(images), note["mean"], note["std"])
    with torch.inference_mode():
        right = model(floats).argmax(1).numpy() == labels
    assert float(right.mean()) == result["test_accuracy"]


def test_a_network_that_answers_by_the_number_of_images_is_not_exported(
    tmp_path, networks, tiny_npz, capsys
):
    trained(tiny_npz, tmp_path / "r", learner="nets_of_use:rigid", epochs=1)
    assert main(["export", "r", "--to", "torchscript", "x.pt"]) == 2
    error = capsys.readouterr().err
    assert "'nets_of_use:rigid' cannot be exported to torchscript" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.slow
def test_nor_is_it_as_a_graph(tmp_path, networks, tiny_npz, capsys):
    trained(tiny_npz, tmp_path / "r", learner="nets_of_use:rigid", epochs=1)
    assert main(["export", "r", "--to", "pt2", "x.pt2"]) == 2
    assert "cannot be exported to pt2" in capsys.readouterr().err


def test_what_onnx_needs_is_named(tmp_path, tiny_npz, monkeypatch, capsys):
    trained(tiny_npz, tmp_path / "r", epochs=1)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(tmp_path / "r"), "--to", "onnx", str(tmp_path / "x")]) == 2
    assert "needs onnxscript: pip install 'gstds[export]'" in capsys.readouterr().err
