"""``gstds predict`` and ``gstds export``: what a run's network is used for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from gstds.envs.data.datasets import load_data
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
        "large.npz": "images of shape (C, H, W) = (1, 9, 9), the network takes (1, 8, 8)",
        "floats.npz": "X must be a uint8 array",
        "none.npz": "none.npz holds no images",
        "empty": "empty holds no images",
        "note.txt": "note.txt: damaged image",
        "absent.png": "absent.png: there is no such file",
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
    gray = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    np.savez(tmp_path / "c.npz", X=images, X_test=np.repeat(gray[..., None], 3, axis=-1))
    np.savez(tmp_path / "g.npz", X=gray)
    rows = answers(tmp_path / "r", tmp_path / "c.npz", tmp_path / "g.npz")
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
