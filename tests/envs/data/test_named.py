import gzip
import stat

import numpy as np
import pytest

from gstds.envs.data import fashion_mnist as fashion
from gstds.envs.data.datasets import advise_data, fetch_data, load_data, probe_data
from tests.envs.data.test_datasets import picture

N, CLASSES = 120, 3


@pytest.fixture
def tiny_fashion(tmp_path, monkeypatch):
    """Fashion-MNIST's format at a small size, with its digests, and no way but the folders."""
    from hashlib import sha256

    random = np.random.default_rng(0)
    files = {}
    for part, n in (("train", 200), ("t10k", 30)):
        files[f"{part}-images-idx3-ubyte"] = bytes(16) + random.bytes(n * 784)
        files[f"{part}-labels-idx1-ubyte"] = bytes(8) + bytes(i % 10 for i in range(n))
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion, "SYSTEM_FOLDER", tmp_path / "system")
    for name, content in files.items():
        monkeypatch.setitem(fashion.DIGESTS, name, sha256(content).hexdigest())
    # A closed port and an empty path stand for a machine without connection and without apt.
    monkeypatch.setattr(fashion, "mirror", lambda: "http://127.0.0.1:9/")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return files


def write_system(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


def write_cache(tmp_path, files):
    folder = tmp_path / "cache" / "data" / "fashion-mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_fashion_from_the_systems_folder(tmp_path, tiny_fashion):
    write_system(tmp_path / "system", tiny_fashion)
    data = load_data("fashion-mnist")
    assert (len(data.train), len(data.test), data.pad, data.flip) == (180, 30, 2, True)
    assert data.class_names[9] == "Ankle boot"
    assert (
        data.test.gather(np.array([0])).numpy().tobytes()
        == (tiny_fashion["t10k-images-idx3-ubyte"][16 : 16 + 784])
    )
    assert probe_data("fashion-mnist").startswith("ready")


@pytest.mark.told("Data", "a file of fashion-mnist that is damaged")
def test_a_damaged_cache_is_passed_over_and_named(tmp_path, tiny_fashion, caplog):
    folder = write_cache(tmp_path, tiny_fashion)
    assert len(load_data("fashion-mnist").test) == 30
    bad = folder / "t10k-labels-idx1-ubyte"
    bad.write_bytes(bad.read_bytes()[:-1] + b"\x05")
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte is damaged") as caught:
        load_data("fashion-mnist")
    assert str(caught.value).endswith(advise_data("fashion-mnist"))
    assert probe_data("fashion-mnist").startswith("out of reach")
    write_system(tmp_path / "system", tiny_fashion)
    caplog.clear()
    assert len(load_data("fashion-mnist").test) == 30
    assert "t10k-labels-idx1-ubyte is damaged" in caplog.text


def test_a_damaged_archive_is_named(tmp_path, tiny_fashion):
    write_system(tmp_path / "system", tiny_fashion)
    bad = tmp_path / "system" / "train-images-idx3-ubyte.gz"
    bad.write_bytes(bad.read_bytes()[:5000])
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        load_data("fashion-mnist")


def test_when_no_place_has_it_the_error_names_every_way(tmp_path, tiny_fashion):
    with pytest.raises(FileNotFoundError) as caught:
        load_data("fashion-mnist")
    for way in ("the cache", "the system's folder", "torchvision", "apt install dataset-fashion"):
        assert way in str(caught.value)
    assert str(tmp_path / "cache") in str(caught.value)
    assert probe_data("fashion-mnist").startswith("out of reach")


def test_the_package_is_unpacked_checked_and_cached(tmp_path, tiny_fashion, monkeypatch):
    # Stand-ins for the two programs: the real package takes a mirror and 31 MB.
    programs, package = tmp_path / "programs", tmp_path / "package"
    write_system(package, tiny_fashion) if package.mkdir() is None else None
    programs.mkdir()
    inner = fashion.SYSTEM_FOLDER.relative_to("/")
    scripts = {
        "apt-get": "for last; do :; done; : > $last.deb",
        "dpkg-deb": f'mkdir -p "$3/{inner}" && cp {package}/* "$3/{inner}"',
    }
    for name, body in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(programs))
    folder = fetch_data("fashion-mnist")
    assert folder == tmp_path / "cache" / "data" / "fashion-mnist"
    assert {p.name for p in folder.iterdir()} == {".lock", *tiny_fashion}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert len(load_data("fashion-mnist").train) == 180


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path, tiny_fashion, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="cache"):
        load_data("fashion-mnist")


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    """CIFAR-10's files at a small size, with their checksums, where the cache expects them."""
    import hashlib
    import pickle

    from gstds.reference.vision import import_torchvision

    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path))
    cifar = import_torchvision().datasets.CIFAR10
    folder = tmp_path / "data" / "cifar10" / cifar.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    def part(n):
        pixels = random.integers(0, 256, (n, 3072), dtype=np.uint8)
        return {"data": pixels, "labels": [i % 10 for i in range(n)]}

    names = {"label_names": [f"kind-{c}" for c in range(10)]}
    monkeypatch.setattr(cifar, "train_list", [["one", write("one", part(200))]])
    monkeypatch.setattr(cifar, "test_list", [["two", write("two", part(40))]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": write(cifar.meta["filename"], names)})
    monkeypatch.setattr(cifar, "url", "http://127.0.0.1:9/")
    return folder


@pytest.mark.told("Data", "a file of cifar10 that is damaged")
def test_cifar(tiny_cifar):
    data = load_data("cifar10")
    assert (data.image_shape, data.pad, data.flip) == ((3, 32, 32), 4, True)
    assert (len(data.train), len(data.test), data.class_names[3]) == (180, 40, "kind-3")
    assert probe_data("cifar10") == "ready"
    (tiny_cifar / "two").write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not in .*gstds data fetch cifar10"):
        load_data("cifar10")
    assert probe_data("cifar10").startswith("damaged (")  # as `gstds doctor` says


def test_pets(tmp_path, monkeypatch):
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path))
    root = tmp_path / "data" / "oxford-iiit-pet" / "oxford-iiit-pet"
    for split, n in (("trainval", 40), ("test", 4)):
        lines = []
        for i in range(n):
            name = f"{'Abyssinian' if i % 2 else 'beagle'}_{split}_{i}"
            picture(root / "images" / f"{name}.jpg", (60, 40), i)
            lines.append(f"{name} {1 + (i + 1) % 2} 1 1")
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.txt").write_text("\n".join(lines))
    data = load_data("oxford-iiit-pet", image_size=32)
    assert (data.image_shape, len(data.train), len(data.test)) == ((3, 32, 32), 36, 4)
    assert data.test.gather(np.arange(4)).shape == (4, 3, 32, 32)
    assert load_data("oxford-iiit-pet").image_shape == (3, 224, 224)
    # What is copied where the message says is found by run and `gstds doctor` alike.
    assert str(root) in advise_data("oxford-iiit-pet")
    assert probe_data("oxford-iiit-pet") == "ready"
    (root / "images").rename(root.parent / "images")
    assert probe_data("oxford-iiit-pet") != "ready"


# sources
