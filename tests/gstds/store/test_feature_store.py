import contextlib
import copy
import gc
import io
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds.store.feature_store import (
    FeatureStore,
    StoreError,
    build_store,
    open_losses,
    save_losses,
)
from gstds.store.format import digest

ROWS, DIM, CHUNK = 100, 7, 16
BACKBONE = {"reference": "test", "weights_sha256": "abc"}


def features(start=0, stop=ROWS):
    return np.random.default_rng(3).normal(size=(ROWS, DIM)).astype(np.float32)[start:stop] * 5


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def build(path, compute=features, **changes):
    options = {
        "rows": ROWS,
        "dim": DIM,
        "fingerprint": "data-1",
        "backbone": BACKBONE,
        "compute": compute,
        "chunk_rows": CHUNK,
    }
    return build_store(path, **{**options, **changes})


def contents(path):
    return {p.name: p.read_bytes() for p in Path(path).iterdir()}


def reopened(text):
    return pickle.loads(text)  # noqa: S301


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_rows_come_back_as_unit_rows_in_the_order_asked_for(tmp_path):
    store = build(tmp_path / "s")
    rows = np.array([99, 0, 17, 17, 40])
    found = store.gather(rows)
    assert found.dtype == np.float32
    assert (store.rows, store.dim) == (ROWS, DIM)
    np.testing.assert_allclose(found, unit(features())[rows], atol=6e-4)
    found[:] = 0  # a fresh array: writing to it must not reach the store
    np.testing.assert_allclose(np.linalg.norm(store.gather(rows), axis=1), 1, atol=2e-3)


def test_the_file_on_disk_is_a_plain_float16_npy(tmp_path):
    store = build(tmp_path / "s")
    values = np.load(tmp_path / "s" / "features.npy", allow_pickle=False)
    assert values.dtype == np.dtype("<f2")
    np.testing.assert_array_equal(values.astype(np.float32), store.gather(np.arange(ROWS)))


def test_norms_are_taken_before_rounding_and_zero_rows_stay_zero(tmp_path):
    values = features()
    values[3] = 0
    values[4] *= 1e30  # would overflow float16 and the square of float32
    values[5] *= 1e-30
    store = build(tmp_path / "s", lambda a, b: torch.from_numpy(values[a:b]))
    norms = np.linalg.norm(store.gather(np.arange(6)), axis=1)
    np.testing.assert_allclose(norms, [1, 1, 1, 0, 1, 1], atol=2e-3)


@given(
    rows=st.integers(1, 40),
    chunk=st.integers(1, 45),
    picks=st.lists(st.integers(0, 10**6), max_size=20),
)
@settings(max_examples=25, deadline=None)
def test_any_chunking_gives_the_same_rows(tmp_path_factory, rows, chunk, picks):
    path = tmp_path_factory.mktemp("store")
    store = build(path / "s", rows=rows, chunk_rows=chunk)
    index = np.array(picks, dtype=np.int64) % rows
    expected = unit(features(0, rows)).astype(np.float16).astype(np.float32)[index]
    np.testing.assert_allclose(store.gather(index), expected, atol=6e-4)
    store.verify()


def test_a_finished_store_is_opened_and_not_computed_again(tmp_path):
    build(tmp_path / "s")
    calls = []
    build(tmp_path / "s", lambda a, b: calls.append(a))
    assert calls == []


def test_progress_ends_at_the_whole(tmp_path):
    seen = []
    build(tmp_path / "s", progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, ROWS)
    assert seen[-1] == (ROWS, ROWS)
    assert seen == sorted(seen)


class StopError(Exception):
    pass


@pytest.mark.parametrize("fatal", range(7))
def test_a_build_that_stopped_resumes_at_its_chunk_with_the_same_bytes(tmp_path, fatal):
    build(tmp_path / "whole")
    calls = []

    def compute(start, stop):
        calls.append(start)
        if len(calls) == fatal + 1:
            raise StopError
        return features(start, stop)

    with pytest.raises(StopError):
        build(tmp_path / "s", compute)
    with pytest.raises(StoreError, match="not finished"):
        FeatureStore.open(tmp_path / "s")
    build(tmp_path / "s", compute)
    assert calls == [0, *range(CHUNK, fatal * CHUNK + 1, CHUNK), *range(fatal * CHUNK, ROWS, CHUNK)]
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


CHILD = """
import sys, time
import numpy as np
from gstds.store.feature_store import build_store
values = np.load(sys.argv[2])
def compute(start, stop):
    print(start, flush=True)
    time.sleep(0.02)
    return values[start:stop]
build_store(sys.argv[1], rows=100, dim=7, fingerprint="data-1", compute=compute, chunk_rows=16,
            backbone={"reference": "test", "weights_sha256": "abc"})
print("done", flush=True)
"""


def child_that_builds(tmp_path, store):
    np.save(tmp_path / "values.npy", features())
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, store, tmp_path / "values.npy"],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_sigkill_and_a_torn_journal_cost_one_chunk(tmp_path):
    build(tmp_path / "whole")
    child = child_that_builds(tmp_path, tmp_path / "s")
    for _ in range(3):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    journal = tmp_path / "s" / "journal.jsonl"
    with open(journal, "ab") as handle:
        handle.write(b"[3, 12")  # a line that a kill cut short
    (tmp_path / "s" / ".manifest.json.abc.tmp").write_text("{")
    calls = []
    build(tmp_path / "s", lambda a, b: (calls.append(a), features(a, b))[1])
    assert calls[0] in (2 * CHUNK, 3 * CHUNK)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_two_processes_that_build_one_store_end_with_one_whole_store(tmp_path):
    build(tmp_path / "whole")
    children = [child_that_builds(tmp_path, tmp_path / "s") for _ in range(2)]
    outputs = [child.communicate(timeout=120)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    chunks = [str(start) for start in range(0, ROWS, CHUNK)]
    assert sorted(outputs, key=len) == [["done"], [*chunks, "done"]]
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_a_chunk_damaged_between_two_builds_is_computed_again(tmp_path):
    build(tmp_path / "whole")
    calls = []

    def compute(start, stop):
        calls.append(start)
        if len(calls) == 4:
            raise StopError
        return features(start, stop)

    with pytest.raises(StopError):
        build(tmp_path / "s", compute)
    flip(tmp_path / "s" / "features.npy", 128 + CHUNK * DIM * 2 + 1)
    build(tmp_path / "s", compute)
    assert calls[4] == CHUNK
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "change", [{"fingerprint": "data-2"}, {"backbone": {"reference": "x"}}, {"chunk_rows": 32}]
)
def test_an_unfinished_build_of_something_else_is_not_continued(tmp_path, change):
    def compute(start, stop):
        if start >= 32:
            raise StopError
        return np.ones((stop - start, DIM))

    with pytest.raises(StopError):
        build(tmp_path / "s", compute)
    store = build(tmp_path / "s", **change)
    np.testing.assert_allclose(store.gather([0]), unit(features())[:1], atol=6e-4)


def test_a_damaged_chunk_is_found_when_it_is_first_touched(tmp_path):
    build(tmp_path / "s")
    flip(tmp_path / "s" / "features.npy", 128 + 3 * CHUNK * DIM * 2 + 5)
    store = FeatureStore.open(tmp_path / "s")
    store.gather(np.arange(3 * CHUNK))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"s: checksum of chunk 3 .*features --rebuild"):
            store.gather([3 * CHUNK])
    with pytest.raises(StoreError, match="chunk 3"):
        store.verify()


def test_verify_reads_again_what_was_already_touched(tmp_path):
    store = build(tmp_path / "s")
    store.gather(np.arange(ROWS))
    with open(tmp_path / "s" / "features.npy", "r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\x77")
    with pytest.raises(StoreError, match="chunk 6"):
        store.verify()


def test_a_store_cut_short_after_it_was_opened_is_an_error_not_a_crash(tmp_path):
    store = build(tmp_path / "s")
    store.gather(np.arange(ROWS))
    os.truncate(tmp_path / "s" / "features.npy", 200)
    with pytest.raises(StoreError, match="size of"):
        store.gather([90])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: (s / "features.npy").unlink(), "features.npy is missing"),
        (lambda s: os.truncate(s / "features.npy", 500), "size of features.npy is 500"),
        (lambda s: flip(s / "features.npy", 20), "header"),
        (lambda s: (s / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda s: (s / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json is damaged"),
        (lambda s: (s / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (lambda s: (s / "manifest.json").unlink(), "not finished"),
    ],
)
def test_a_damaged_store_is_refused_at_open(tmp_path, damage, message):
    build(tmp_path / "s")
    damage(tmp_path / "s")
    with pytest.raises(StoreError, match=message) as error:
        FeatureStore.open(tmp_path / "s")
    assert str(tmp_path / "s") in str(error.value)


def edit_manifest(path, **values):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.update(values)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def test_a_manifest_edited_by_hand_is_refused(tmp_path):
    build(tmp_path / "s")
    manifest = edit_manifest(tmp_path / "s", fingerprint="data-2")
    with pytest.raises(StoreError, match="checksum of the manifest"):
        FeatureStore.open(tmp_path / "s", fingerprint="data-2")
    edit_manifest(tmp_path / "s", version=9, sha256=digest({**manifest, "version": 9}))
    with pytest.raises(StoreError, match="version 9"):
        FeatureStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "data-2"}, "fingerprint of the data is 'data-1', expected 'data-2'"),
        ({"backbone": {"reference": "other"}}, "backbone is .*test.* expected .*other"),
        ({"rows": 99}, r"size is \(100, 7\)"),
    ],
)
def test_a_store_of_something_else_is_refused_and_left_alone(tmp_path, change, message):
    build(tmp_path / "s")
    before = contents(tmp_path / "s")
    with pytest.raises(StoreError, match=message):
        build(tmp_path / "s", **change)
    assert contents(tmp_path / "s") == before
    shutil.rmtree(tmp_path / "s")
    assert build(tmp_path / "s", **change).rows == change.get("rows", ROWS)


def test_a_missing_store_is_refused_by_name(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere: there is no store; run `gstds features`"):
        FeatureStore.open(tmp_path / "nowhere")


@pytest.mark.parametrize("rows", [[-1], [ROWS], [5, 10**9]])
def test_indices_outside_the_store_are_refused(tmp_path, rows):
    store = build(tmp_path / "s")
    with pytest.raises(IndexError, match=r"rows must lie in \[0, 99\]"):
        store.gather(rows)


@pytest.mark.parametrize("rows", [[0.5], [True, False], [[1]], 3])
def test_indices_of_a_wrong_kind_are_refused(tmp_path, rows):
    with pytest.raises(TypeError, match="whole numbers"):
        build(tmp_path / "s").gather(rows)


def test_no_rows_are_an_empty_array(tmp_path):
    assert build(tmp_path / "s").gather([]).shape == (0, DIM)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda a, b: features(a, b)[:-1], "rows 0 to 15 must have the shape"),
        (lambda a, b: np.where(np.arange(a, b)[:, None] == 20, np.nan, features(a, b)), "row 20"),
    ],
)
def test_bad_features_stop_the_build_and_leave_no_store(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "s", bad)
    with pytest.raises(StoreError):
        FeatureStore.open(tmp_path / "s")


def test_a_backbone_that_is_not_json_is_refused_before_any_work(tmp_path):
    with pytest.raises(TypeError):
        build(tmp_path / "s", backbone={"x": object()})
    assert not (tmp_path / "s").exists()


def test_a_full_disk_names_the_file_and_leaves_no_store(tmp_path):
    calls = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, before[1]))
    try:
        with pytest.raises(OSError, match=r"free some space.*GSTDS_CACHE.*features\.npy"):
            build(tmp_path / "s", lambda a, b: calls.append(a))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert calls == []
    assert not (tmp_path / "s" / "features.npy").exists()
    with pytest.raises(StoreError):
        FeatureStore.open(tmp_path / "s")
    build(tmp_path / "s").verify()


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        build(tmp_path / "file" / "s")
    with pytest.raises(StoreError, match="no store"):
        FeatureStore.open(tmp_path / "file" / "s")


def test_losses_come_back_with_their_manifest(tmp_path):
    losses = np.array([0.5, 2.0, 0.0], dtype=np.float32)
    save_losses(tmp_path / "l", losses, {"fingerprint": "data-1", "l2": 1e-3})
    found, manifest = open_losses(tmp_path / "l", expected={"fingerprint": "data-1"})
    np.testing.assert_array_equal(found, losses)
    assert manifest == {"fingerprint": "data-1", "l2": 1e-3}


def test_every_flipped_bit_of_a_losses_file_is_refused(tmp_path):
    path = tmp_path / "l"
    save_losses(path, [0.5, 2.0], {"fingerprint": "data-1"})
    whole = path.read_bytes()
    accepted = 0
    for offset in range(len(whole)):
        flip(path, offset)
        # A blank that pads the header may change without changing what is said.
        with contextlib.suppress(StoreError):
            found, manifest = open_losses(path)
            np.testing.assert_array_equal(found, [0.5, 2.0])
            assert manifest == {"fingerprint": "data-1"}
            accepted += 1
        path.write_bytes(whole)
    assert accepted < 16
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreError):
            open_losses(path)


def test_losses_of_something_else_or_missing_are_refused(tmp_path):
    save_losses(tmp_path / "l", [1.0], {"fingerprint": "data-1"})
    with pytest.raises(StoreError, match="fingerprint is 'data-1', expected 'data-2'"):
        open_losses(tmp_path / "l", expected={"fingerprint": "data-2"})
    with pytest.raises(StoreError, match="no losses"):
        open_losses(tmp_path / "m")


@pytest.mark.parametrize("losses", [[np.nan], [[1.0]], [np.inf]])
def test_bad_losses_are_not_written(tmp_path, losses):
    with pytest.raises(ValueError, match="losses"):
        save_losses(tmp_path / "l", losses, {})
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize("copied", [lambda s: reopened(pickle.dumps(s)), copy.deepcopy])
def test_a_copy_opens_the_store_for_itself_from_any_folder(tmp_path, monkeypatch, copied):
    monkeypatch.chdir(tmp_path)
    store = build("s")
    text = pickle.dumps(store)
    assert len(text) < 500  # its path, no features
    twin = copied(store)
    store.close()
    np.testing.assert_array_equal(twin.gather([3, 99, 3]), unit(features())[[3, 99, 3]].astype("e"))
    twin.close()
    monkeypatch.chdir("/")
    assert reopened(text).rows == ROWS


def test_a_copy_of_a_store_that_was_made_anew_or_is_gone_is_refused(tmp_path):
    text = pickle.dumps(build(tmp_path / "s"))
    shutil.rmtree(tmp_path / "s")
    build(tmp_path / "s", fingerprint="data-2")
    with pytest.raises(
        StoreError, match="made anew since this copy of it was begun; open it again"
    ):
        reopened(text)
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(StoreError, match="there is no store"):
        reopened(text)


def open_files(folder):
    """Paths of the files in a folder that this process holds open."""
    found = [file for file in gc.get_objects() if issubclass(type(file), io.BufferedReader)]
    names = [str(file.name) for file in found if not file.closed]
    return sorted(name for name in names if name.startswith(str(folder)))


def test_a_forgotten_store_leaves_no_file_open_and_a_closed_one_says_so(tmp_path):
    store = build(tmp_path / "s")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = open_files(tmp_path)
        forgotten = FeatureStore.open(tmp_path / "s")
        assert len(open_files(tmp_path)) > len(before)
        del forgotten
        gc.collect()
    assert open_files(tmp_path) == before
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.gather([0])
