"""What a store checks, and when: each row that is touched, rows of one byte, no version 1."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from gstds.store.feature_store import FeatureStore, StoreError, build_store
from gstds.store.format import digest

ROWS, DIM, CHUNK = 100, 7, 16
HEADER = 128


def features(start=0, stop=ROWS):
    return np.random.default_rng(3).normal(size=(ROWS, DIM)).astype(np.float32)[start:stop] * 5


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def build(path, compute=features, **changes):
    options = {"rows": ROWS, "dim": DIM, "fingerprint": "data-1", "backbone": {"reference": "test"}}
    return build_store(path, **{**options, "compute": compute, "chunk_rows": CHUNK, **changes})


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def rewrite_manifest(path, **values):
    manifest = json.loads((path / "manifest.json").read_text()) | values
    manifest["sha256"] = digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_every_row_is_checked_when_it_is_touched_and_no_other(tmp_path):
    build(tmp_path / "s").close()
    flip(tmp_path / "s" / "features.npy", HEADER + 50 * DIM * 2 + 3)
    store = FeatureStore.open(tmp_path / "s")
    others = np.delete(np.arange(ROWS), 50)
    np.testing.assert_allclose(store.gather(others), unit(features())[others], atol=6e-4)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"chunk 3 does not match \(row 50\).*--rebuild"):
            store.gather([3, 50])
    with pytest.raises(StoreError, match="row 50"):
        store.verify()


@pytest.mark.parametrize("row", [0, 17, 99])
def test_any_flipped_byte_of_a_row_is_found(tmp_path, row):
    build(tmp_path / "s").close()
    whole = (tmp_path / "s" / "features.npy").read_bytes()
    for offset in range(2 * DIM):
        flip(tmp_path / "s" / "features.npy", HEADER + row * DIM * 2 + offset)
        with pytest.raises(StoreError, match=f"row {row}"):
            FeatureStore.open(tmp_path / "s").gather([row])
        (tmp_path / "s" / "features.npy").write_bytes(whole)


def test_a_checksum_that_was_changed_with_its_row_is_found(tmp_path):
    build(tmp_path / "s").close()
    flip(tmp_path / "s" / "rows.crc32", 50 * 4)
    store = FeatureStore.open(tmp_path / "s")
    store.gather(np.arange(48))
    for row in (48, 50):
        with pytest.raises(StoreError, match=r"checksum of chunk 3 of rows\.crc32"):
            store.gather([row])
    with pytest.raises(StoreError, match=r"chunk 3 of rows\.crc32"):
        store.verify()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"rows\.crc32 is missing"),
        (lambda path: os.truncate(path, 396), r"size of rows\.crc32 is 396 bytes, expected 400"),
    ],
)
def test_a_store_without_its_checksums_is_refused_at_open(tmp_path, damage, message):
    build(tmp_path / "s").close()
    damage(tmp_path / "s" / "rows.crc32")
    with pytest.raises(StoreError, match=message):
        FeatureStore.open(tmp_path / "s")


def test_checksums_cut_short_after_opening_are_an_error_not_a_crash(tmp_path):
    store = build(tmp_path / "s")
    os.truncate(tmp_path / "s" / "rows.crc32", 0)
    with pytest.raises(StoreError, match=r"size of rows\.crc32"):
        store.gather([90])


def test_a_build_that_goes_on_mends_the_checksums_of_what_was_there(tmp_path):
    build(tmp_path / "whole").close()

    def compute(start, stop):
        if start == 64:
            raise KeyboardInterrupt
        return features(start, stop)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "s", compute)
    flip(tmp_path / "s" / "rows.crc32", 20)
    build(tmp_path / "s").verify()
    for name in ("features.npy", "rows.crc32", "manifest.json"):
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_store_of_version_1_is_refused_in_words(tmp_path):
    build(tmp_path / "s").close()
    rewrite_manifest(tmp_path / "s", version=1)
    with pytest.raises(StoreError, match=r"version 1, this release reads version 2; .*--rebuild"):
        FeatureStore.open(tmp_path / "s")


def test_rows_of_one_byte_a_number_keep_their_direction(tmp_path):
    values = features()
    values[3] = 0
    values[4] *= 1e30
    store = build(tmp_path / "s", lambda start, stop: values[start:stop], dtype="int8")
    found, wanted = store.gather(np.arange(ROWS)), unit(features())
    assert (tmp_path / "s" / "features.npy").stat().st_size == HEADER + ROWS * DIM
    norms = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(np.delete(norms, 3), 1, atol=1e-6)
    assert norms[3] == 0
    # Half a step of each entry at most, before the row is scaled to unit length.
    rows = np.delete(np.arange(ROWS), 3)
    step = np.abs(wanted[rows]).max(axis=1, keepdims=True) / 127
    cosines = (found[rows] * wanted[rows]).sum(axis=1)
    assert (1 - cosines <= 0.5 * DIM * (0.5 * step[:, 0]) ** 2 + 1e-6).all()
    assert (cosines < 1 - 1e-7).any()  # it is rounded indeed


def test_a_store_of_another_type_is_refused_and_left_alone(tmp_path):
    build(tmp_path / "s").close()
    with pytest.raises(StoreError, match=r"type is '<f2', expected '\|i1'"):
        build(tmp_path / "s", dtype="int8")
    assert build(tmp_path / "s").rows == ROWS
    with pytest.raises(ValueError, match="dtype: unknown name 'int4'"):
        build(tmp_path / "t", dtype="int4")
