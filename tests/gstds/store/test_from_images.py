from __future__ import annotations

import numpy as np
import pytest

from gstds.store import feature_store as prepare
from gstds.store.feature_store import (
    LOSSES_NAME,
    FeatureStore,
    StoreError,
    open_losses,
    prepare_store,
)

N = 40
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(N) % 4


def changed(at, value):
    labels = LABELS.copy()
    labels[at] = value
    return labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": changed(0, 4)}, r"every class needs at least 2 .*class 4 has 1"),
        ({"labels": changed(0, -1)}, "labels must be classes from 0, got -1"),
        ({"labels": np.full(N, 2)}, "labels must name at least 2 classes, got the class 2 alone"),
        ({"labels": changed(slice(2), 100_000)}, "labels must be below .*, 40, got 100000; number"),
        ({"labels": LABELS[:-1]}, r"labels must be whole numbers \(40,\), got int64 \(39,\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "at least 2 classes, got none"),
        ({"images": (IMAGES / 255).astype("uint8")}, "images shows nothing, .* from 0 to 1 of 255"),
        ({"groups": np.arange(N - 1)}, r"groups must be whole numbers \(40,\).*got int64 \(39,\)"),
        ({"groups": np.arange(N) / 2}, r"groups must be whole numbers .*float64"),
        ({"images": IMAGES[:4], "labels": [0, 0, 1, 1]}, "images must be at least 5, .* got 4"),
        ({"groups": np.arange(N) % 8 // 2}, r"images must be at least 5, .* got 4"),
        ({"groups": LABELS + 4 * (np.arange(N) // 4) * (LABELS > 0)}, "class 0 has 1"),
        ({"device": "gpu"}, "device must be one that torch has here, such as 'cpu' .*got 'gpu'"),
        ({"device": "cuda:99"}, "device must be one that torch has here.*got 'cuda:99'"),
        ({"device": 0.5}, r"device must be one that torch has here.*got 0\.5"),
    ],
)
@pytest.mark.told("Loops of your own", "`prepare_store(…, {changes})`")
def test_bad_input_is_told_before_anything_is_computed(tmp_path, monkeypatch, changes, message):
    def never(*args, **options):
        raise AssertionError("nothing may be computed")

    monkeypatch.setattr(prepare, "build_store", never)
    options = {"images": IMAGES, "labels": LABELS, "reference": "untrained"} | changes
    with pytest.raises(ValueError, match=message):
        prepare_store(tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_a_store_is_made_once_and_a_class_that_does_not_occur_is_no_error(tmp_path):
    labels = np.where(LABELS == 1, 5, LABELS)
    store = prepare_store(tmp_path, IMAGES, labels, reference="untrained")
    assert store.rows == N
    losses, note = open_losses(tmp_path / LOSSES_NAME)
    assert losses.shape == (N,)
    assert note["num_classes"] == 6


@pytest.mark.told("Loops of your own", "`prepare_store` of other images into the same folder")
def test_other_images_with_equal_labels_are_no_store_of_these(tmp_path):
    first = prepare_store(tmp_path, IMAGES, LABELS, reference="untrained").gather(np.arange(N))
    other = np.ascontiguousarray(IMAGES[::-1])
    with pytest.raises(StoreError, match=r"fingerprint of the data is .*; delete it"):
        prepare_store(tmp_path, other, LABELS, reference="untrained")
    same = prepare_store(tmp_path, IMAGES, LABELS, reference="untrained")
    assert np.array_equal(same.gather(np.arange(N)), first)


def test_what_a_store_lacks_is_told_with_both_ways_to_make_it(tmp_path):
    with pytest.raises(StoreError, match=r"`gstds features`, or gstds\.prepare_store"):
        FeatureStore.open(tmp_path)
    with pytest.raises(StoreError, match=r"`gstds features`, or gstds\.prepare_store"):
        open_losses(tmp_path / LOSSES_NAME)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"prepare_store again.*`gstds features --rebuild`"):
        FeatureStore.open(tmp_path)
