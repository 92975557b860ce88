"""CIFAR, Pets and Flowers in their true archive formats, fetched from a server of the test's own.

The archives are tiny and made on the spot; torchvision's addresses and checksums are replaced by
theirs for the length of a test, and everything else is the real thing.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gstds.envs.data.datasets import (
    advise_data,
    check_files,
    fetch_data,
    load_data,
    probe_data,
)
from gstds.reference.vision import import_torchvision
from gstds.train.cli.doctor import diagnose

NOWHERE = "http://127.0.0.1:9/"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that serves it."""
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def pack(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return md5(path)


def jpeg(red: int, size: tuple[int, int] = (60, 40)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (red, 128, 10)).save(stream, "JPEG")
    return stream.getvalue()


# CIFAR: pickles of rows of 3,072 bytes, all red, then all green, then all blue


def cifar_files(name: str, n: int, test: int) -> dict[str, bytes]:
    """Return the files of CIFAR-10 or CIFAR-100, protocol 2 as published, by name."""
    classes = 10 if name == "cifar10" else 100
    fine = "labels" if name == "cifar10" else "fine_labels"

    def part(count: int) -> bytes:
        labels = [i % classes for i in range(count)]
        rows = np.zeros((count, 3, 1024), np.uint8)
        rows += np.array([10, 20, 30], np.uint8)[None, :, None]
        rows[:, 0, 0] = labels
        content = {"data": rows.reshape(count, 3072), fine: labels, "batch_label": "a part"}
        if classes == 100:
            content["coarse_labels"] = [label // 5 for label in labels]
        return pickle.dumps(content, protocol=2)

    kinds = [f"kind-{c}" for c in range(classes)]
    if name == "cifar10":
        names = {"label_names": kinds, "num_vis": 3072}
        parts = {f"data_batch_{i}": part(n // 5) for i in range(1, 6)}
        return {**parts, "test_batch": part(test), "batches.meta": pickle.dumps(names, 2)}
    names = {"fine_label_names": kinds, "coarse_label_names": ["group"] * 20}
    return {"train": part(n), "test": part(test), "meta": pickle.dumps(names, 2)}


@pytest.fixture
def cifar(server, monkeypatch):
    def cifar(name: str, n: int, test: int) -> Path:
        folder, address = server
        kind = getattr(import_torchvision().datasets, name.upper())
        files = cifar_files(name, n, test)
        sums = {f: hashlib.md5(c, usedforsecurity=False).hexdigest() for f, c in files.items()}
        packed = {f"{kind.base_folder}/{f}": content for f, content in files.items()}
        monkeypatch.setattr(kind, "tgz_md5", pack(folder / kind.filename, packed))
        monkeypatch.setattr(kind, "url", f"{address}/{kind.filename}")
        for parts in ("train_list", "test_list"):
            named = [[file, sums[file]] for file, _ in getattr(kind, parts)]
            monkeypatch.setattr(kind, parts, named)
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
        return Path(folder.parent) / "cache" / "data" / name / kind.base_folder

    return cifar


@pytest.mark.parametrize(("name", "n", "test"), [("cifar10", 200, 40), ("cifar100", 400, 100)])
def test_cifar_is_fetched_unpacked_and_read(cifar, name, n, test):
    place = cifar(name, n, test)
    assert probe_data(name) == "can be downloaded"
    assert fetch_data(name) == place.parent
    assert probe_data(name) == "ready"
    data = load_data(name)
    assert (data.image_shape, data.num_classes) == ((3, 32, 32), 10 if name == "cifar10" else 100)
    assert (len(data.test), data.class_names[7]) == (test, "kind-7")
    parts = (data.train, data.reward_validation, data.selection_validation)
    assert sum(len(part) for part in parts) == n
    for part in (*parts, data.test):
        images = part.gather(np.arange(len(part))).numpy()
        assert np.array_equal(images[:, 0, 0, 0], part.labels)
        assert images[:, :, 5, 5].tolist() == [[10, 20, 30]] * len(part)


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(("name", "file"), [("cifar10", "data_batch_3"), ("cifar100", "meta")])
def test_a_pickle_of_another_checksum_is_never_opened(cifar, server, tmp_path, name, file):
    place = cifar(name, 400, 100)
    fetch_data(name)
    (place / file).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    for archive in server[0].iterdir():
        archive.unlink()
    for archive in place.parent.glob("*.tar.gz"):
        archive.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is not in .*gstds data fetch {name}"):
        load_data(name)
    assert not (tmp_path / "exploded").exists()
    pickle.loads((place / file).read_bytes())  # noqa: S301  (the bomb does work)
    assert (tmp_path / "exploded").exists()


def test_an_archive_of_another_checksum_is_refused(cifar, server, tmp_path):
    cifar("cifar10", 200, 40)
    archive = next(server[0].iterdir())
    pack(archive, {"cifar-10-batches-py/test_batch": pickle.dumps(Bomb(tmp_path / "exploded"))})
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not in .*cannot be fetched"):
        load_data("cifar10")
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_file_is_ready_for_nobody(cifar, monkeypatch):
    place = cifar("cifar10", 200, 40)
    fetch_data("cifar10")
    (place / "data_batch_3").write_bytes(b"damaged")
    monkeypatch.setattr(import_torchvision().datasets.CIFAR10, "url", NOWHERE)
    for archive in place.parent.glob("*.tar.gz"):
        archive.unlink()
    why = r"data_batch_3 is damaged \(its MD5"
    assert re.search(why, probe_data("cifar10"))
    assert probe_data("cifar10").startswith("damaged")
    with pytest.raises(FileNotFoundError, match=why):
        load_data("cifar10")
    doctor = {check.name: check for check in diagnose()}["data cifar10"]
    assert (doctor.status, doctor.mend) == ("warn", advise_data("cifar10"))


# Photographs


@pytest.fixture
def pets(server, monkeypatch):
    """The two archives of Oxford-IIIT Pet: images, and lists of name, class, species, breed."""
    folder, address = server
    kind = import_torchvision().datasets.OxfordIIITPet
    images, lists = {}, {}
    for split, n in (("trainval", 80), ("test", 8)):
        lines = []
        for i in range(n):
            name = f"{('Abyssinian', 'great_pyrenees')[i % 2]}_{split}{i}"
            images[f"images/{name}.jpg"] = jpeg(200 * (i % 2))
            lines.append(f"{name} {i % 2 + 1} {i % 2 + 1} 1\n")
        lists[f"annotations/{split}.txt"] = "".join(lines).encode()
    sums = [
        (f"{address}/{name}", pack(folder / name, content))
        for name, content in (("images.tar.gz", images), ("annotations.tar.gz", lists))
    ]
    monkeypatch.setattr(kind, "_RESOURCES", tuple(sums))
    return folder.parent / "cache" / "data" / "oxford-iiit-pet"


def test_pets_are_fetched_unpacked_and_read(pets):
    assert fetch_data("oxford-iiit-pet") == pets
    data = load_data("oxford-iiit-pet", image_size=32)
    assert data.class_names == ("Abyssinian", "Great Pyrenees")
    assert (len(data.train), len(data.test), data.image_shape) == (72, 8, (3, 32, 32))
    for part in (data.train, data.test):
        red = part.gather(np.arange(len(part)))[:, 0, 16, 16].numpy()
        assert np.abs(red - 200.0 * part.labels).max() < 6
    check_files(data)


def test_photographs_whose_unpacking_was_cut_short_are_named(pets):
    fetch_data("oxford-iiit-pet")
    lost = sorted(pets.rglob("*.jpg"))[:3]
    for path in lost:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"3 of 88 images are not there.*Delete .* and run"):
        load_data("oxford-iiit-pet")


@pytest.fixture
def flowers(server, monkeypatch):
    """Flowers-102: an archive of images, labels and part numbers counted from 1 as MATLAB does."""
    from scipy.io import savemat

    folder, address = server
    kind = import_torchvision().datasets.Flowers102
    n = 5 * 102
    labels = np.arange(n) % 102 + 1
    images = {f"jpg/image_{i + 1:05d}.jpg": jpeg(2 * int(labels[i]), (30, 45)) for i in range(n)}
    pack(folder / "102flowers.tgz", images)
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    ids = np.arange(1, n + 1, dtype=np.uint16)
    parts = {"trnid": ids[None, :204], "valid": ids[None, 204:408], "tstid": ids[None, 408:]}
    savemat(folder / "setid.mat", parts)
    monkeypatch.setattr(kind, "_download_url_prefix", f"{address}/")
    sums = {key: (file, md5(folder / file)) for key, (file, _) in kind._file_dict.items()}
    monkeypatch.setattr(kind, "_file_dict", sums)


def test_flowers_are_fetched_unpacked_and_read(flowers):
    fetch_data("flowers102")
    data = load_data("flowers102", image_size=16)
    assert (data.num_classes, data.class_names[0]) == (102, "pink primrose")
    parts = (data.train, data.reward_validation, data.selection_validation)
    assert (sum(len(part) for part in parts), len(data.test)) == (408, 102)
    for part in (data.train, data.test):
        red = part.gather(np.arange(len(part)))[:, 0, 8, 8].numpy()
        assert np.abs(red - 2.0 * (part.labels + 1)).max() < 6


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "oxford-iiit-pet", "flowers102"])
def test_files_that_are_copied_where_the_message_says_are_read(request, monkeypatch, name):
    kinds = {"oxford-iiit-pet": "pets", "flowers102": "flowers"}
    made = request.getfixturevalue(kinds.get(name, "cifar"))
    if name.startswith("cifar"):
        made(name, 400, 100)
    folder = fetch_data(name)
    away = folder.with_name("another machine")
    folder.rename(away)
    data_sets = import_torchvision().datasets
    for kind, attribute, value in (
        (data_sets.CIFAR10, "url", NOWHERE),
        (data_sets.CIFAR100, "url", NOWHERE),
        (data_sets.OxfordIIITPet, "_RESOURCES", ((f"{NOWHERE}a.tar.gz", ""),)),
        (data_sets.Flowers102, "_download_url_prefix", NOWHERE),
    ):
        monkeypatch.setattr(kind, attribute, value)
    with pytest.raises(FileNotFoundError) as caught:
        load_data(name)
    assert str(caught.value).endswith(advise_data(name))
    names, place = re.search(
        r"or copy (.*) from a machine .* into (.*)$", str(caught.value)
    ).groups()
    assert str(place) in probe_data(name)
    Path(place).mkdir(parents=True)
    for file in names.split(", "):
        next(away.rglob(file)).rename(Path(place) / file)
    assert probe_data(name) == "ready"
    assert len(load_data(name).test) > 0


def test_photographs_that_are_missing_are_ready_for_nobody(pets):
    fetch_data("oxford-iiit-pet")
    next(pets.rglob("*.jpg")).unlink()
    assert probe_data("oxford-iiit-pet").startswith("damaged (1 of 88 images are not there")
