"""Image files as people have them: odd modes, damage."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gstds.envs.data.datasets import check_files, load_data
from gstds.envs.data.images import FileImages
from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from tests.told import WARNED, note


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "data" / ("cat" if i % 2 else "dog") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


def gathered(path, image):
    image.save(path)
    return FileImages([path], (8, 8), path.parent).gather(np.array([0]))[0].numpy()


def test_sixteen_bit_gray_is_scaled_and_not_cut_off(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("a.png", "a.tiff"):
        got = gathered(tmp_path / name, Image.fromarray(ramp))
        assert np.array_equal(got[0], ramp // 256)
        assert np.array_equal(got[0], got[2])


def deep(root, top, n=8):
    """Write n gray files of 16 bits in each of two classes, whose values end at ``top``."""
    random = np.random.default_rng(0)
    values = random.integers(0, top + 1, (2, n, 8, 8)).astype(np.uint16)
    values[:, :, 0, 0] = top
    for i, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for j in range(n):
            Image.fromarray(values[i, j]).save(root / name / f"{j}.png")
    return values.reshape(-1, 8, 8), load_data(f"folder:{root}")


@pytest.mark.parametrize(("top", "depth"), [(255, 8), (1023, 10), (4095, 12), (40000, 16)])
@pytest.mark.told(
    "Data", "16-bit files that hold 8, 10 or 12 bits", works="scaled by the bits that they hold"
)
def test_sixteen_bit_files_are_scaled_by_the_bits_that_they_hold(tmp_path, top, depth):
    values, data = deep(tmp_path / "data", top)
    got = data.train.source.gather(np.arange(len(values))).numpy()
    assert np.array_equal(got[:, 0], values >> (depth - 8))
    assert got.max() >= 150
    told = f"16 files of 16 bits are read as {depth} bits, which is what they hold"
    assert data.notes == ((told,) if depth < 16 else ())


@pytest.mark.told("Data", "a file of more bits than the others")
def test_a_deeper_file_among_others_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    _, data = deep(tmp_path / "data", 255)
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "data" / "cat" / "3.png")
    with pytest.raises(OSError, match=r"3\.png.*values up to 4000, where other.* hold 8 bits"):
        check_files(data)


@pytest.mark.told("Data", "images that are all of one value")
def test_images_that_show_nothing_are_refused(folder):
    for path in folder.rglob("*.png"):
        Image.new("RGB", (12, 9), (1, 1, 1)).save(path)
    with pytest.raises(OSError, match="all other images are empty, with values from 1 to 1"):
        check_files(load_data(f"folder:{folder}"))


def test_shapes_in_the_transparency_alone_are_refused(folder):
    for path in folder.rglob("*.png"):
        Image.merge("LA", (Image.new("L", (12, 9)), Image.open(path).convert("L"))).save(path)
    with pytest.raises(OSError, match="or drawn in the transparency alone"):
        check_files(load_data(f"folder:{folder}"))


@pytest.mark.told("Data", "images of one flat color")
def test_images_of_one_color_are_counted(folder, caplog):
    Image.new("RGB", (12, 9), (90, 20, 3)).save(folder / "dog" / "00.png")
    check_files(load_data(f"folder:{folder}"))
    assert "1 of 40 images are one flat color, such as" in caplog.text
    assert "dog/00.png" in caplog.text
    note(caplog.messages[0], WARNED)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.told("Data", "gray of 32 bits, `{dtype}`")
def test_gray_of_32_bits_is_refused(tmp_path, dtype):
    with pytest.raises(OSError, match=r"a\.tiff: .*32 bits a pixel; convert it"):
        gathered(tmp_path / "a.tiff", Image.fromarray(np.full((8, 8), 300, dtype)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_usual_mode_is_read_as_the_same_gray(tmp_path, mode):
    white = Image.new("RGB", (8, 8), (255, 255, 255))
    kind = "tiff" if mode in ("CMYK", "YCbCr", "HSV") else "png"
    image = white.convert(mode) if mode != "HSV" else white.convert("CMYK")
    assert gathered(tmp_path / f"a.{kind}", image).min() >= 250


@pytest.mark.told("Data", "2 damaged files of 40")
def test_damaged_files_are_named_before_anything_is_trained(folder, tmp_path):
    for name in ("cat/01.png", "dog/20.png"):
        cut(folder / name)
    options = {"dataset": f"folder:{folder}", "policy": "random", "batch_size": 8}
    with pytest.raises(OSError, match=r"01\.png: damaged image.*; 2 of 40 files are damaged"):
        execute(config_from(options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_are_looked_at_once_until_they_change(folder):
    calls = []

    def look():
        calls.clear()
        check_files(load_data(f"folder:{folder}"), lambda *told: calls.append(told))
        return calls

    assert look()[-1] == ("checking images", 40, 40)
    assert look() == []
    cut(folder / "cat" / "01.png")
    with pytest.raises(OSError, match=r"01\.png: damaged image \(.*replace the file or remove it$"):
        look()


def test_a_test_part_of_its_own_is_looked_at_too(folder):
    (folder / "train").mkdir()
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / name)
        (folder / "test" / name).mkdir(parents=True)
        one = next((folder / "train" / name).iterdir())
        one.rename(folder / "test" / name / "a.png")
    cut(folder / "test" / "dog" / "a.png")
    with pytest.raises(OSError, match=r"test/dog/a\.png: damaged"):
        check_files(load_data(f"folder:{folder}"))
