"""Hostile data, stores, checkpoints and agents are refused, and none of their code runs."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from gstds.common import npz
from gstds.common.checksummed_json import sealed
from gstds.common.state import StateError, latest_state, save_state
from gstds.envs.data import fashion_mnist as fashion
from gstds.envs.data.datasets import check_files, load_data
from gstds.envs.data.downloads import quick_downloads
from gstds.policies.learned.agent_file import AgentFileError, load_agent
from gstds.reference.networks import read_checkpoint
from gstds.reference.vision import import_torchvision
from gstds.store.feature_store import FeatureStore, StoreError, build_store, open_losses
from tests.plants import DEEP, Plant


def test_the_plant_does_work(tmp_path):
    pickle.loads(pickle.dumps(Plant(tmp_path / "m")))  # noqa: S301
    assert (tmp_path / "m").exists()


# Data sets


def objects(path, marker):
    np.savez(path, X=np.array([Plant(marker)] * 4, dtype=object), y=np.arange(4) % 2)


def declared(path, *, header_shape, size, content=b"\0" * 100):
    """Write an .npz whose array X declares a shape, and whose zip entry declares a size."""
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": header_shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", buffer.getvalue() + content)
        archive.writestr("y.npy", buffer.getvalue() + content)
    if size:  # the central directory is what a reader believes
        data = bytearray(path.read_bytes())
        at = data.index(b"PK\x01\x02")
        data[at + 24 : at + 28] = struct.pack("<I", size)
        path.write_bytes(bytes(data))


def test_an_npz_of_objects_is_refused(tmp_path, marker):
    objects(tmp_path / "a.npz", marker)
    with pytest.raises(ValueError, match=r"a\.npz.*holds Python objects"):
        load_data(f"npz:{tmp_path}/a.npz")


def test_a_pickle_in_place_of_an_npz_is_refused(tmp_path, pickled):
    (tmp_path / "a.npz").write_bytes(pickled)
    with pytest.raises(ValueError, match=r"a\.npz: damaged"):
        load_data(f"npz:{tmp_path}/a.npz")


@pytest.mark.parametrize("shape", [(10**15,), (2**40, 2**40), (10**9, 28, 28)])
def test_a_shape_larger_than_its_bytes_is_refused_unread(tmp_path, shape):
    declared(tmp_path / "a.npz", header_shape=shape, size=0)
    with pytest.raises(ValueError, match=r"a\.npz: damaged.*should have"):
        load_data(f"npz:{tmp_path}/a.npz")


def test_a_size_larger_than_the_memory_is_refused_unread(tmp_path, monkeypatch):
    declared(tmp_path / "a.npz", header_shape=(4 * 10**9,), size=4_000_000_128)
    monkeypatch.setattr(npz, "memory_bytes", lambda: 10**9)
    with pytest.raises(ValueError, match=r"a\.npz: it declares 4\.0 GB.*1\.0 GB of memory"):
        load_data(f"npz:{tmp_path}/a.npz")
    with pytest.raises(ValueError, match="declares"):
        npz.check_declared_size(tmp_path / "a.npz")


def test_no_more_is_unpacked_than_was_declared(tmp_path):
    # 64 MB of zeros behind an entry that says 200 bytes.
    declared(tmp_path / "a.npz", header_shape=(72,), size=200, content=bytes(64 * 2**20))
    with pytest.raises(ValueError, match=r"a\.npz: damaged"):
        load_data(f"npz:{tmp_path}/a.npz")


def png(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that declares an image of width by height."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def images(folder: Path) -> Path:
    from PIL import Image

    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 13_000, 60_000])
def test_an_image_that_declares_a_hundred_million_pixels_is_refused(tmp_path, side):
    (images(tmp_path / "d") / "a" / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(OSError, match=r"bomb\.png"):
        load_data(f"folder:{tmp_path}/d", image_size=8)


def test_an_image_that_a_program_would_decode_is_refused(tmp_path, marker, monkeypatch):
    # Pillow hands PostScript to Ghostscript; here a program of that name would leave the marker.
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (images(tmp_path / "d") / "a" / "photo.png").write_bytes(script)
    with pytest.raises(OSError, match=r"photo\.png: not a readable image"):
        check_files(load_data(f"folder:{tmp_path}/d"))


def test_an_image_that_links_to_another_file_is_refused_without_its_content(tmp_path):
    (tmp_path / "secret").write_text("hunter2")
    (images(tmp_path / "d") / "a" / "link.png").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=r"link\.png") as told:
        load_data(f"folder:{tmp_path}/d")
    assert "hunter2" not in str(told.value)


def test_a_gzip_bomb_in_place_of_fashion_mnist_is_not_unpacked(tmp_path):
    name = "t10k-labels-idx1-ubyte"
    with gzip.open(tmp_path / f"{name}.gz", "wb") as stream:
        for _ in range(64):
            stream.write(bytes(2**20))
    with pytest.raises(OSError, match="is damaged"):
        fashion.decompress(tmp_path / f"{name}.gz", name)
    with gzip.open(tmp_path / f"{name}.gz") as stream:
        assert len(stream.read(fashion.SIZES[name] + 1)) == 10_009


# Archives


def leads_out(kind: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo({"parent": "../escaped", "absolute": "/tmp/escaped"}.get(kind, "a"))  # noqa: S108
    if kind == "link":
        entry.type, entry.linkname = tarfile.SYMTYPE, "../../escaped"
    if kind == "hard link":
        entry.type, entry.linkname = tarfile.LNKTYPE, "../escaped"
    if kind == "device":
        entry.type = tarfile.CHRTYPE
    return entry


@pytest.mark.parametrize("kind", ["parent", "link", "hard link", "device"])
def test_an_archive_that_leads_out_of_its_folder_is_not_unpacked(tmp_path, kind):
    extract_archive = import_torchvision().datasets.utils.extract_archive

    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(leads_out(kind), io.BytesIO())
    (tmp_path / "in").mkdir()
    with quick_downloads(), pytest.raises(tarfile.FilterError):
        extract_archive(str(tmp_path / "a.tar.gz"), str(tmp_path / "in" / "out"))
    assert not (tmp_path / "in" / "escaped").exists()
    assert tarfile.TarFile.extraction_filter is None


# Feature store and losses


def store(path: Path) -> Path:
    rows = np.random.default_rng(0).normal(size=(6, 3))
    build_store(
        path, rows=6, dim=3, fingerprint="f", backbone={"b": 1}, compute=lambda a, b: rows[a:b]
    ).close()
    return path


def test_a_pickle_in_a_store_is_refused(tmp_path, marker, pickled):
    place = store(tmp_path / "s")
    np.save(place / "features.npy", np.array([Plant(marker)], dtype=object))
    with pytest.raises(StoreError, match=r"size of features\.npy"):
        FeatureStore.open(place)
    (place / "manifest.json").write_bytes(pickled)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        FeatureStore.open(place)


def test_a_pickle_of_a_stores_very_size_is_refused(tmp_path, marker):
    place = store(tmp_path / "s")
    size = (place / "features.npy").stat().st_size
    buffer = io.BytesIO()
    np.save(buffer, np.array([Plant(marker)], dtype=object))
    (place / "features.npy").write_bytes(buffer.getvalue()[:size].ljust(size, b"\0"))
    with pytest.raises(StoreError, match="header"):
        FeatureStore.open(place)


@pytest.mark.parametrize("content", [DEEP, '{"sha256": NaN}', "[]", '{"rows": 1e999}', "\x00"])
def test_a_hostile_manifest_is_refused(tmp_path, content):
    place = store(tmp_path / "s")
    (place / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore.open(place)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path):
    place = store(tmp_path / "s")
    (place / "manifest.json").unlink()
    os.mkfifo(place / "manifest.json")
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore.open(place)


def huge_header() -> bytes:
    """Return a safetensors file of a few bytes that declares an exabyte."""
    head = json.dumps({"losses": {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}})
    return len(head).to_bytes(8, "little") + head.encode()


@pytest.mark.parametrize("content", [huge_header(), b"\xff" * 8, (2**40).to_bytes(8, "little")])
def test_tensors_that_declare_an_exabyte_are_refused(tmp_path, content, pickled):
    for data in (content, pickled):
        (tmp_path / "l").write_bytes(data)
        with pytest.raises(StoreError, match="damaged"):
            open_losses(tmp_path / "l")


# Checkpoints


def test_a_pickle_in_a_checkpoints_place_is_refused(tmp_path, pickled):
    save_state(tmp_path, 1, {"a": torch.ones(3)})
    (tmp_path / "step-000000001.safetensors").write_bytes(pickled)
    with pytest.raises(StateError, match="damaged"):
        latest_state(tmp_path)
    (tmp_path / "step-000000001.json").write_bytes(pickled)
    with pytest.raises(StateError, match="damaged"):
        latest_state(tmp_path)


@pytest.mark.parametrize("content", [DEEP, "[]", "{}", '{"version": 1, "sha256": 3}'])
def test_a_hostile_checkpoint_is_refused(tmp_path, content):
    save_state(tmp_path, 1, {"a": torch.ones(3)})
    (tmp_path / "step-000000001.json").write_text(content)
    with pytest.raises(StateError, match="step-000000001"):
        latest_state(tmp_path)


def test_a_checkpoint_of_a_reference_runs_no_code(tmp_path, marker, pickled):
    torch.save({"a": Plant(marker)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickled)
    (tmp_path / "c.safetensors").write_bytes(pickled)
    for name in ("a.pt", "b.pt", "c.safetensors"):
        with pytest.raises(ValueError, match=name):
            read_checkpoint(tmp_path / name)


def test_a_checkpoint_larger_than_the_memory_is_refused_unread(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(10_000)}, tmp_path / "a.pt")
    monkeypatch.setattr(npz, "memory_bytes", lambda: 10_000)
    with pytest.raises(ValueError, match=r"a\.pt.*memory"):
        read_checkpoint(tmp_path / "a.pt")


# Agents


@pytest.mark.parametrize("content", [DEEP, "[]", '{"version": 1}', "null", '{"version": 1e999}'])
def test_a_hostile_agent_is_refused(tmp_path, content, pickled):
    for data in (content.encode(), pickled):
        (tmp_path / "agent.json").write_bytes(data)
        with pytest.raises(AgentFileError, match=r"agent\.json"):
            load_agent(str(tmp_path))


def test_an_agents_tensors_cannot_be_a_pickle(tmp_path, pickled):
    from hashlib import sha256

    from gstds.policies.learned.agent_file import save_agent
    from tests.policies.learned.test_agent_policy import agent

    for data in (pickled, huge_header()):
        save_agent(tmp_path, agent())
        note = json.loads((tmp_path / "agent.json").read_text())
        del note["seal"]
        note["sha256"] = sha256(data).hexdigest()
        (tmp_path / "agent.json").write_text(json.dumps(sealed(note)))
        (tmp_path / "agent.safetensors").write_bytes(data)
        with pytest.raises(AgentFileError, match="holds no tensors"):
            load_agent(str(tmp_path))


def test_a_zip_of_an_agents_library_is_no_agent(tmp_path, pickled):
    # Stable-Baselines3's own files hold pickles: they are never what `learned:` reads.
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as archive:
        archive.writestr("data", pickled)
    with pytest.raises(AgentFileError, match=r"no agent\.json"):
        load_agent(str(tmp_path / "agent.zip"))
