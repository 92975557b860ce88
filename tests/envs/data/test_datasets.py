import json
import os
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gstds.envs.data.datasets import (
    check_files,
    dataset_names,
    describe,
    fetch_data,
    load_data,
    probe_data,
)
from gstds.envs.data.images import ArrayImages, FileImages

N, CLASSES = 120, 3


def arrays(n=N, shape=(8, 10), seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, *shape), dtype=np.uint8)
    return {"X": images, "y": np.arange(n) % CLASSES}


def save(path, **content):
    np.savez(path, **content)
    return f"npz:{path}"


# npz


@pytest.mark.parametrize(("shape", "channels"), [((8, 10), 1), ((8, 10, 1), 1), ((8, 10, 3), 3)])
def test_npz_hands_out_its_images(tmp_path, shape, channels):
    content = arrays(shape=shape)
    data = load_data(save(tmp_path / "a.npz", **content))
    assert data.image_shape == (channels, 8, 10)
    assert (data.num_classes, data.class_names) == (3, ("0", "1", "2"))
    indices = np.array([3, 0, 3])
    got = data.test.gather(indices)
    assert got.dtype == torch.uint8
    wanted = content["X"][data.test.rows[indices]].reshape(3, 8, 10, channels)
    assert np.array_equal(got.numpy(), wanted.transpose(0, 3, 1, 2))
    assert np.array_equal(data.test.labels, content["y"][data.test.rows])
    got.zero_()
    assert data.test.gather(indices).any(), "gather must answer with a fresh tensor"


def test_npz_with_a_test_part(tmp_path):
    test = arrays(9, seed=1)
    name = save(tmp_path / "a.npz", **arrays(), X_test=test["X"], y_test=test["y"])
    data = load_data(name, label_noise=0.5, duplicates=0.2)
    assert len(data.train) == 108
    assert np.array_equal(data.test.gather(np.arange(9)).numpy()[:, 0], test["X"])
    assert np.array_equal(data.test.labels, test["y"])


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("images", "labels", "test_images", "test_labels"),
        ("x", "y", "x_test", "y_test"),
    ],
)
def test_npz_with_others_names(tmp_path, names):
    first, test = arrays(), arrays(9, seed=1)
    ours = {"X": first["X"], "y": first["y"], "X_test": test["X"], "y_test": test["y"]}
    column = {"y": ours["y"][:, None], "y_test": ours["y_test"][:, None]}
    theirs = dict(zip(names, (ours | column).values(), strict=True))
    unread = {"val_images": np.zeros(3), "other": np.array([{}], dtype=object)}
    got = load_data(save(tmp_path / "a.npz", **theirs, **unread))
    wanted = load_data(save(tmp_path / "b.npz", **ours))
    for part in ("train", "test"):
        mine, other = getattr(got, part), getattr(wanted, part)
        assert np.array_equal(mine.labels, other.labels)
        every = np.arange(len(mine.labels))
        assert np.array_equal(mine.gather(every), other.gather(every))


@pytest.mark.told("Data", "`npz:` with `pixels` and `classes`")
def test_an_npz_without_images_says_what_it_holds(tmp_path):
    name = save(tmp_path / "a.npz", pixels=np.zeros(3), classes=np.zeros(3))
    with pytest.raises(ValueError, match="X and y missing; found classes, pixels"):
        load_data(name)


def test_statistics_are_those_of_the_train_images(tmp_path):
    content = arrays(300, shape=(4, 4, 3))
    data = load_data(save(tmp_path / "a.npz", **content))
    pixels = content["X"][data.train.rows] / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-9)


def test_a_constant_channel_has_a_deviation(tmp_path):
    content = arrays(shape=(4, 4, 3))
    content["X"][..., 2] = 7
    assert load_data(save(tmp_path / "a.npz", **content)).std[2] == pytest.approx(1 / 255)


def test_augmentation_that_suits_the_data(tmp_path):
    name = save(tmp_path / "a.npz", **arrays(shape=(32, 40)))
    assert [(d.pad, d.flip) for d in (load_data(name), load_data("digits"))] == [
        (4, False),
        (1, False),
    ]
    assert [(d.pad, d.flip) for d in (load_data(name, augment=a) for a in (True, False))] == [
        (4, True),
        (0, False),
    ]


def _object_array(path):
    np.savez(path, X=np.array([{}, {}], dtype=object), y=np.arange(2))


def _truncated(path):
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-300])


def _flipped_bit(path):
    np.savez(path, **arrays())
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)


def _not_arrays(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X", "hello")
        archive.writestr("y", "hello")


def _lone_array(path):
    with path.open("wb") as handle:
        np.save(handle, np.zeros(3))


@pytest.mark.parametrize(
    "write", [_object_array, _truncated, _flipped_bit, _not_arrays, _lone_array]
)
def test_a_damaged_npz_is_named(tmp_path, write):
    write(tmp_path / "a.npz")
    with pytest.raises((ValueError, TypeError), match=r"a\.npz"):
        load_data(f"npz:{tmp_path}/a.npz")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": None}, ValueError, "y missing; found X"),
        ({"X": arrays()["X"] / 255.0}, TypeError, "X must be a uint8 array, got float64"),
        ({"X": arrays(shape=(8,))["X"]}, ValueError, r"X must have shape.*got \(120, 8\)"),
        ({"X": arrays(shape=(8, 8, 4))["X"]}, ValueError, r"got \(120, 8, 8, 4\)"),
        ({"y": np.arange(N) % 3 - 1}, ValueError, r"y must be in 0\.\.C-1, got -1"),
        ({"y": np.arange(N) % 3 / 2}, TypeError, "y must hold whole numbers, got dtype float64"),
        ({"y": np.arange(N) % 3 * 2}, ValueError, "y has no sample of class 1"),
        ({"y": np.arange(N) % 3 + 1}, ValueError, "y has no sample of class 0"),
        ({"y": np.arange(N - 1) % 3}, ValueError, r"y must have shape \(120,\).*got \(119,\)"),
        ({"y": np.zeros(N, dtype=int)}, ValueError, "y holds one class, 0"),
        ({"y": np.array([1] + [0] * 119)}, ValueError, "class '1' has 1 sample"),
        ({"X_test": arrays()["X"]}, ValueError, "X_test stands without y_test"),
        (
            {"X_test": arrays(9, (8, 8))["X"], "y_test": np.arange(9) % 3},
            ValueError,
            r"X_test has images of shape .*\(1, 8, 8\), X of \(1, 8, 10\)",
        ),
        (
            {"X_test": arrays(9)["X"], "y_test": np.arange(9) % 4},
            ValueError,
            "y_test holds class 3, but y ends at 2",
        ),
        ({"class_names": ["a", "b"]}, ValueError, "y holds class 2, class_names only 2"),
        ({"class_names": list("abcd")}, ValueError, "y has no sample of class 3"),
        ({"X": arrays(0)["X"], "y": np.arange(0)}, ValueError, "y is empty"),
    ],
)
@pytest.mark.told("Data", "`npz:` with `{change}`")
def test_a_wrong_npz_is_a_clear_error(tmp_path, change, error, message):
    content = {k: v for k, v in {**arrays(), **change}.items() if v is not None}
    with pytest.raises(error, match=message):
        load_data(save(tmp_path / "a.npz", **content))


# arguments


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("digit", {}, ValueError, "unknown name 'digit'; did you mean 'digits'"),
        ("fashion_mnist", {}, ValueError, "did you mean 'fashion-mnist'"),
        ("folder:", {}, ValueError, "unknown name 'folder:'"),
        (7, {}, TypeError, "dataset must be a name, got 7"),
        ("npz:/nowhere.npz", {}, FileNotFoundError, "npz:/nowhere.npz"),
        ("folder:/nowhere", {}, FileNotFoundError, "folder:/nowhere"),
        ("no_such_module:f", {}, ValueError, "no module 'no_such_module'"),
        ("json:lods", {}, ValueError, "did you mean.*'loads'"),
        ("digits", {"label_noise": 1.1}, ValueError, r"label_noise must be in \[0, 1\], got 1.1"),
        ("digits", {"duplicates": 1.0}, ValueError, r"duplicates must be in \[0, 1\), got 1.0"),
        ("digits", {"imbalance": -0.1}, ValueError, r"imbalance must be in \[0, 1\), got -0.1"),
        ("digits", {"label_noise": float("nan")}, ValueError, "label_noise must be in"),
        ("digits", {"limit": 2.5}, TypeError, "limit must be a whole number, got 2.5"),
        ("digits", {"limit": 19}, ValueError, r"limit must be in \[20, 1258\].*got 19"),
        ("digits", {"limit": 1259}, ValueError, "got 1259"),
        ("digits", {"split_seed": -1}, ValueError, "split_seed must be at least 0, got -1"),
        ("digits", {"clean_validation": "no"}, TypeError, "clean_validation must be true or false"),
        ("digits", {"augment": 1}, TypeError, "augment must be true or false, got 1"),
        ("digits", {"image_size": 32}, ValueError, "image_size=32 needs a data set of image files"),
    ],
)
def test_a_wrong_argument_is_a_clear_error(name, options, error, message):
    with pytest.raises(error, match=message):
        load_data(name, **options)


# fingerprints


def test_the_fingerprint_follows_content_split_and_options(tmp_path):
    content = arrays()
    name = save(tmp_path / "a.npz", **content)
    first = load_data(name)
    assert load_data(name).fingerprint == first.fingerprint
    assert load_data(save(tmp_path / "b.npz", **content)).fingerprint == first.fingerprint
    changes = ({"split_seed": 1}, {"limit": 60}, {"label_noise": 0.1}, {"augment": False})
    prints = {load_data(name, **change).fingerprint for change in changes}
    content["X"][0, 0, 0] ^= 1
    other = load_data(save(tmp_path / "b.npz", **content))
    assert len({first.fingerprint, other.fingerprint, *prints}) == 6
    assert other.train.source.fingerprint != first.train.source.fingerprint


# a user's own


class Counting:
    def __init__(self, images):
        self.images = images
        self.loaded = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.loaded.append(index)
        return self.images[index]


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A module of the user's in the current folder, whose answer a test can set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "users_own.py").write_text("answer = None\ndef load():\n    return answer\n")
    sys.path.append(str(tmp_path))
    yield lambda answer: setattr(__import__("users_own"), "answer", answer)
    sys.modules.pop("users_own", None)


def test_a_lazy_sequence_is_read_only_when_asked(user):
    content = arrays(shape=(8, 10, 3))
    images, test = Counting(content["X"]), Counting(content["X"][:9])
    first = {"X": images, "y": content["y"], "fingerprint": "v1"}
    user({**first, "X_test": test, "y_test": content["y"][:9]})
    data = load_data("users_own:load", label_noise=0.2, duplicates=0.3, limit=60)
    assert len(images.loaded) <= 1
    assert test.loaded == []
    images.loaded.clear()
    got = data.train.gather(np.array([5, 2]))
    assert images.loaded == data.train.rows[[5, 2]].tolist()
    assert np.array_equal(got.numpy(), content["X"][data.train.rows[[5, 2]]].transpose(0, 3, 1, 2))
    assert data.mean == (0.485, 0.456, 0.406)
    one = data.fingerprint
    user({"X": images, "y": content["y"], "fingerprint": "v2"})
    two = load_data("users_own:load").fingerprint
    user({"X": images, "y": content["y"], "fingerprint": "v3"})
    assert len({one, two, load_data("users_own:load").fingerprint}) == 3


@pytest.mark.told(
    "Data",
    "a sequence of images without `fingerprint`",
    works="it is known by a sample of 16 images",
)
def test_a_sequence_without_fingerprint_is_known_by_a_sample_of_its_images(user):
    content = arrays(shape=(8, 10, 3))

    def fingerprint(images):
        user({"X": images, "y": content["y"]})
        return load_data("users_own:load").train.source.fingerprint

    images = Counting(content["X"])
    one = fingerprint(images)
    assert len(set(images.loaded)) == 16
    assert fingerprint(Counting(content["X"].copy())) == one
    assert fingerprint(Counting(255 - content["X"])) != one  # other images, equal labels


@pytest.mark.parametrize("wrap", [lambda images: images, np.asarray, lambda images: images[:]])
@pytest.mark.told(
    "Data",
    "`np.load(…, mmap_mode='r')`, or an array that is a view of it",
    works="it stays on disk",
)
def test_a_memory_map_stays_on_disk(user, tmp_path, wrap):
    content = arrays(400, shape=(8, 10, 3))
    np.save(tmp_path / "X.npy", content["X"])
    images = wrap(np.load(tmp_path / "X.npy", mmap_mode="r"))
    user({"X": images, "y": content["y"]})
    source = load_data("users_own:load").train.source
    rows = np.array([7, 399, 0])
    wanted = content["X"][rows].transpose(0, 3, 1, 2)
    assert np.array_equal(source.gather(rows).numpy(), wanted)
    kept = [value for value in vars(source).values() if hasattr(value, "nbytes")]
    assert all(np.shares_memory(value, images) for value in kept)


# what has one meaning is read, what has several or none is refused


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.told(
    "Data", "images of shape (n, 1, h, w) or (n, 3, h, w)", works="channels are put last"
)
def test_channels_may_come_first(user, channels):
    content = arrays(shape=(8, 10, channels))
    wanted = load_arrays(user, **content)
    first = np.ascontiguousarray(content["X"].transpose(0, 3, 1, 2))
    for images in (first, Counting(first), Counting([torch.from_numpy(one) for one in first])):
        got = load_arrays(user, X=images, y=content["y"])
        assert got.image_shape == (channels, 8, 10)
        every = np.arange(len(got.test))
        assert torch.equal(got.test.gather(every), wanted.test.gather(every))


def load_arrays(user, **content):
    user(content)
    return load_data("users_own:load")


NAMES = np.array(["cat", "cow", "dog"])
LABELS = {
    "names": NAMES[np.arange(N) % 3],
    "objects": NAMES[np.arange(N) % 3].astype(object),
    "list": NAMES[np.arange(N) % 3].tolist(),
    "column": NAMES[np.arange(N) % 3][:, None],
    "one-hot": np.eye(3, dtype=np.uint8)[np.arange(N) % 3],
    "one-hot floats": np.eye(3)[np.arange(N) % 3],
    "one-hot truths": np.eye(3, dtype=bool)[np.arange(N) % 3],
    "floats": (np.arange(N) % 3).astype(np.float32),
    "bytes": NAMES[np.arange(N) % 3].astype("S"),
    "objects that are numbers": (np.arange(N) % 3).astype(object),
    "a tensor with gradients": (torch.arange(N) % 3).float().requires_grad_(),
    "masked, and nothing is": np.ma.array(np.arange(N) % 3),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.told(
    "Data", "labels that are names, one-hot rows, whole floats or truths", works="read as classes"
)
def test_labels_of_one_meaning_are_read(user, kind):
    content = arrays()
    wanted = load_arrays(user, **content)
    got = load_arrays(
        user, X=content["X"], y=LABELS[kind], X_test=255 - content["X"], y_test=LABELS[kind]
    )
    named = kind in ("names", "objects", "list", "column", "bytes")
    assert got.class_names == (tuple(NAMES) if named else wanted.class_names)
    assert np.array_equal(got.test.labels, content["y"])


def test_names_in_an_npz_and_in_the_order_of_class_names(user, tmp_path):
    content = arrays() | {"y": LABELS["names"]}
    assert load_data(save(tmp_path / "a.npz", **content)).class_names == ("cat", "cow", "dog")
    given = load_arrays(user, **content, class_names=["dog", "cow", "cat"])
    assert given.class_names == ("dog", "cow", "cat")
    shown = np.array(given.class_names)[given.train.labels]
    assert np.array_equal(shown, LABELS["names"][given.train.rows])


def test_two_truths_are_two_classes(user):
    content = arrays()
    got = load_arrays(user, X=content["X"], y=np.arange(N) % 2 == 1)
    assert np.array_equal(got.train.labels, got.train.rows % 2)


def multi_hot():
    labels = np.eye(3, dtype=int)[np.arange(N) % 3]
    labels[:5] = 1
    labels[5] = 0
    return labels


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": multi_hot()}, ValueError, "y has 6 rows of no class or of several"),
        (
            {"y": LABELS["names"], "class_names": ["cat", "dog"]},
            ValueError,
            "y holds 'cow', which is no class of",
        ),
        ({"y": np.array(["a", 7] * 60, dtype=object)}, TypeError, "whole numbers"),
        (
            {"y": LABELS["names"], "X_test": arrays()["X"], "y_test": arrays()["y"]},
            ValueError,
            "y and y_test must both hold names, or both numbers",
        ),
        (
            {"X_test": arrays()["X"], "y_test": arrays()["y"]},
            ValueError,
            "the test part holds the very images of train",
        ),
        ({"X": np.ma.array(arrays()["X"], mask=arrays()["X"] > 9)}, ValueError, "masked pixels"),
        ({"X": (arrays()["X"] / 255).astype("uint8")}, ValueError, r"X shows nothing.*from 0 to 1"),
        ({"X": arrays()["X"] * 0 + 7}, ValueError, "X shows nothing, with values from 7 to 7"),
        (
            {"X": Counting((arrays()["X"] / 255).astype("uint8"))},
            ValueError,
            r"X shows nothing.*\(X \* 255\)\.round",
        ),
        (
            {"X": Counting([Image.new("I;16", (10, 8))] * N)},
            TypeError,
            r"X\[0\] has mode 'I;16', more than 8 bits",
        ),
    ],
)
@pytest.mark.told("Data", "a function that returns `{change}`")
def test_what_has_several_meanings_or_none_is_refused(user, change, error, message):
    with pytest.raises(error, match=message):
        load_arrays(user, **arrays() | change)


MISSING = {
    "masked": np.ma.array(np.arange(N) % 3, mask=np.arange(N) % 30 == 7),
    "NaN": np.where(np.arange(N) % 30 == 7, np.nan, np.arange(N) % 3),
    "pandas' integers": pd.Series(np.where(np.arange(N) % 30 == 7, None, 1)).astype("Int64"),
    "None": np.where(np.arange(N) % 30 == 7, None, NAMES[np.arange(N) % 3]),
    "pandas' texts": pd.Series(np.where(np.arange(N) % 30 == 7, None, NAMES[np.arange(N) % 3])),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_are_counted_and_refused(user, kind):
    with pytest.raises(ValueError, match=r"y lacks 4 of 120 labels .*, the first .* sample 7;"):
        load_arrays(user, X=arrays()["X"], y=MISSING[kind])


@pytest.mark.parametrize(
    "names", ["abc", {0: "a", 1: "b", 2: "c"}, {"a", "b", "c"}, ["a", "b", "a"]]
)
def test_class_names_in_no_order_or_twice_are_refused(user, names):
    with pytest.raises(ValueError, match="class_names must be a list of different names"):
        load_arrays(user, **arrays(), class_names=names)


def test_what_is_given_and_not_read_is_told(user, tmp_path):
    content = arrays() | {"X_val": arrays(9)["X"], "Xtest": 1}
    for data in (load_arrays(user, **content), load_data(save(tmp_path / "a.npz", **content))):
        assert data.notes == ("not read: X_val, Xtest",)
    theirs = {"X_train": content["X"], "y_train": content["y"], "fingerprint": "v1"}
    data = load_arrays(user, **theirs)
    assert (data.notes, len(data.train)) == ((), 84)


@pytest.mark.parametrize("mark", [lambda: "v1", 1.5])
def test_a_fingerprint_that_is_no_text_is_refused(user, mark):
    with pytest.raises(TypeError, match="fingerprint must be a text, got"):
        load_arrays(user, X=Counting(arrays()["X"]), y=arrays()["y"], fingerprint=mark)


def test_no_fingerprint_is_none(user):
    images = Counting(arrays()["X"])
    images.fingerprint = None
    one = load_arrays(user, X=images, y=arrays()["y"]).train.source.fingerprint
    images.images = 255 - images.images
    assert load_arrays(user, X=images, y=arrays()["y"]).train.source.fingerprint != one


class Turning(Counting):
    """Another image each time, as random transforms make it."""

    def __getitem__(self, index):
        return np.roll(super().__getitem__(index), len(self.loaded), axis=1)


def test_images_that_change_or_show_nothing_are_refused_before_a_run(user):
    for images, words in (
        (Turning(arrays()["X"]), "X hands out other images when it is read again; leave random"),
        (Counting(arrays()["X"] // 255), "X shows nothing"),
    ):
        data = load_arrays(user, X=images, y=arrays()["y"], fingerprint="v1")
        with pytest.raises(ValueError, match=words):
            check_files(data)
        with pytest.raises(ValueError, match=words):
            load_arrays(user, X=images, y=arrays()["y"])


@pytest.mark.parametrize(
    ("item", "kind"),
    [((arrays()["X"][0], 1), "tuple"), ({"image": 1}, "dict"), ("a.png", "str"), (b"x", "bytes")],
)
def test_an_item_that_is_no_image_is_named(user, item, kind):
    with pytest.raises(
        TypeError, match=rf"X\[0\] must be a uint8 array, got {kind}: an image alone"
    ):
        load_arrays(user, X=[item] * N, y=arrays()["y"])


def test_an_item_that_raises_is_named_with_its_line(user):
    class Broken(Counting):
        def __getitem__(self, index):
            raise KeyError("image")

    with pytest.raises(ValueError, match=r"X\[0\] raised KeyError: 'image' \(.*test_datasets.py:"):
        load_arrays(user, X=Broken(arrays()["X"]), y=arrays()["y"])


def test_a_gray_picture_among_colored_ones_is_read_as_color(user):
    pictures = [Image.fromarray(one) for one in arrays(shape=(8, 10, 3))["X"]]
    pictures[30] = pictures[30].convert("L")
    data = load_arrays(user, X=pictures, y=arrays()["y"])
    got = data.train.source.gather(np.array([30]))[0].numpy()
    assert np.array_equal(got, np.stack([np.asarray(pictures[30])] * 3))


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "RGB"])
@pytest.mark.told(
    "Data", "a sequence of pictures of any mode (P, RGBA, CMYK)", works="read as colors"
)
def test_pictures_in_a_sequence_are_read_as_colors(user, mode):
    random = np.random.default_rng(0)
    colors = random.integers(0, 2, (N, 8, 10, 3), dtype=np.uint8) * 255
    pictures = [Image.fromarray(one).convert(mode) for one in colors]
    data = load_arrays(user, X=pictures, y=np.arange(N) % 3)
    got = data.train.source.gather(np.arange(N)).numpy()
    assert np.array_equal(got > 127, colors.transpose(0, 3, 1, 2) > 127)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ([1, 2], TypeError, "users_own:load must return a mapping.*got list"),
        ({"X": arrays()["X"]}, ValueError, "y missing; found X"),
        ({"X": 7, "y": [0]}, TypeError, "X must be a uint8 array or a sequence"),
        ({"X": Counting(arrays()["X"] / 2), "y": arrays()["y"]}, TypeError, r"X\[0\].*float64"),
        ({"X": Counting(arrays(shape=(8,))["X"]), "y": arrays()["y"]}, ValueError, r"X\[0\] must"),
        ({"X": Counting([]), "y": np.arange(0)}, ValueError, "y is empty"),
    ],
)
@pytest.mark.told("Data", "a function that returns `{answer}`")
def test_a_wrong_answer_is_a_clear_error(user, answer, error, message):
    user(answer)
    with pytest.raises(error, match=message):
        load_data("users_own:load")


@pytest.mark.told("Data", "a sequence with an image of another shape")
def test_an_odd_image_is_named_when_it_is_read(user):
    images = [*arrays(29)["X"], np.zeros((4, 4), np.uint8)]
    user({"X": Counting(images), "y": np.arange(30) % 3, "fingerprint": "v1"})
    data = load_data("users_own:load")
    with pytest.raises(ValueError, match=r"X\[29\] has shape"):
        data.train.source.gather(np.array([0, 29]))


@pytest.mark.told("Data", "a file that imports `no_such_library`")
def test_an_import_error_inside_the_users_module_is_its_own(user, tmp_path):
    (tmp_path / "broken_own.py").write_text("import no_such_library\n")
    with pytest.raises(ValueError, match=r"'broken_own:load'.*No module named 'no_such_library'"):
        load_data("broken_own:load")


# folders


def picture(path, size=(12, 9), value=100, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 2 * value, 255 - value)).save(path, kind)


@pytest.fixture
def folder(tmp_path):
    for i in range(40):
        picture(tmp_path / ("cat" if i % 2 else "dog") / f"{i:02}.png", value=i)
    return tmp_path


def test_folder_keeps_a_common_size(folder):
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "cat" / "._1.png").write_text("hidden")
    data = load_data(f"folder:{folder}")
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (3, 9, 12)
    assert sum(len(p) for p in (data.train, data.test)) == 40 - 4
    images = data.train.gather(np.arange(len(data.train)))
    values = images[:, 0, 0, 0].numpy()
    assert np.array_equal(images[:, 1, 4, 4].numpy(), 2 * values)
    assert np.array_equal(data.train.labels, 1 - values % 2)


def test_folder_scales_and_cuts_the_middle(folder):
    wide = Image.new("RGB", (40, 10))
    wide.paste((255, 0, 0), (15, 0, 25, 10))
    wide.save(folder / "cat" / "99.png")
    assert load_data(f"folder:{folder}").image_shape == (3, 64, 64)
    data = load_data(f"folder:{folder}", image_size=20)
    assert data.image_shape == (3, 20, 20)
    middle = data.train.source.gather(np.array([20]))[0]
    assert middle[0].float().mean() > 240
    assert middle[1:].max() == 0


@pytest.mark.told("Data", "a class in `test` that `train` has not")
def test_folder_with_train_and_test(tmp_path):
    for i in range(40):
        picture(tmp_path / "train" / ("cat" if i % 2 else "dog") / f"{i}.png")
    picture(tmp_path / "test" / "dog" / "a.png", value=7)
    picture(tmp_path / "test" / "cat" / "deeper" / "b.png", value=9)
    data = load_data(f"folder:{tmp_path}")
    assert len(data.train) == 36
    assert data.test.labels.tolist() == [0, 1]
    assert data.test.gather(np.arange(2))[:, 0, 0, 0].tolist() == [9, 7]
    picture(tmp_path / "test" / "cow" / "c.png")
    with pytest.raises(ValueError, match="class 'cow' is not among the classes of train"):
        load_data(f"folder:{tmp_path}")


def parts(root, **counts):
    for name, count in counts.items():
        for i in range(count):
            picture(root / name / ("cat" if i % 2 else "dog") / f"{i}.png", value=i)
    return load_data(f"folder:{root}")


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (("train", "test"), ()),
        (("Training", "Testing"), ()),
        (("train", "val"), ("the test part is val",)),
        (("train", "eval"), ("the test part is eval",)),
        (("train_set", "test_set"), ()),
        (("Seg-Train", "Seg-Test"), ()),
        (("training data", "validation data"), ("the test part is validation data",)),
        (("training", "validation"), ("the test part is validation",)),
    ],
)
@pytest.mark.told("Data", "a folder with `{names}`", works="read as train and test part")
def test_folders_of_parts_are_read_as_parts(tmp_path, names, notes):
    data = parts(tmp_path, **dict(zip(names, (40, 6), strict=True)))
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test), data.notes) == (36, 6, notes)


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
@pytest.mark.told(
    "Data",
    "a folder with `train`, `val` and `test`",
    works="`val` is not read; validation is drawn from `train`",
)
def test_a_third_part_is_told_of_and_not_read(tmp_path, val):
    data = parts(tmp_path, **{"train": 40, val: 4, "test": 6})
    assert (len(data.train), len(data.test)) == (36, 6)
    assert data.notes == (f"{val} is not read; validation is drawn from train",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("test", "val"), r"holds test and val and nothing beside: it needs train and test"),
        (("train",), r"holds train and nothing beside: .*folder:.*/train, from which a test part"),
        (("train", "training", "test"), "train and training, which both mean its train part"),
        (("data",), r"at least two classes, got data; or give folder:.*/data"),
        (("test_set", "val_set"), "holds test_set and val_set and nothing beside"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "put the parts above the classes"),
    ],
)
@pytest.mark.told("Data", "a folder with `{names}`")
def test_a_layout_that_cannot_be_right_is_refused(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        parts(tmp_path, **dict.fromkeys(names, 4))


def test_classes_may_have_names_of_parts(tmp_path):
    for name in ("valid", "invalid"):
        for i in range(20):
            picture(tmp_path / name / f"{i}.png", value=i)
    assert load_data(f"folder:{tmp_path}").class_names == ("invalid", "valid")
    for name in ("train station", "test tube"):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / "0.png")
        picture(tmp_path / name / "1.png")
    assert len(load_data(f"folder:{tmp_path}").class_names) == 4


def test_what_is_passed_over_is_counted_and_named(folder):
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "labels.csv").write_text("a,b")
    (folder / "cat" / ".hidden").write_text("")
    checkpoints = folder / "cat" / ".ipynb_checkpoints"
    checkpoints.mkdir()
    picture(checkpoints / "0-checkpoint.png")
    data = load_data(f"folder:{folder}")
    assert data.notes == ("passed over: 2 other files, such as labels.csv, cat/notes.txt",)
    assert len(data.train.source) == 40
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "cat" / "more").symlink_to(folder / "dog")
    (notes,) = load_data(f"folder:{folder}").notes
    assert notes == "passed over: 4 other files, such as labels.csv, cat/gone.png, cat/more"


def test_parts_of_the_same_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the test part holds the very images of train"):
        parts(tmp_path, train=40, test=40)


def test_what_of_a_file_is_not_read_is_told(folder):
    photo, frames = Image.new("RGB", (10, 8)), [Image.new("RGB", (10, 8), (9 * i,)) for i in (0, 9)]
    tags = photo.getexif()
    tags[0x0112] = 6
    photo.save(folder / "cat" / "turned.jpg", exif=tags)
    for name in ("moving.gif", "pages.tif"):
        frames[0].save(folder / "dog" / name, save_all=True, append_images=frames[1:])
    frames[0].save(folder / "dog" / "preview.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert load_data(f"folder:{folder}").notes == (
        "photographs with an orientation tag, which is not applied: 1, such as turned.jpg",
        "files of several images, of which the first is read: 2, such as moving.gif",
    )


def test_the_description_holds_classes_and_counts(folder, tmp_path):
    (folder / "notes.txt").write_text("")
    assert describe(load_data(f"folder:{folder}", limit=20)) == (
        f"data folder:{folder}: 20 train, 4 validation, 8 test; 2 classes in train: cat 10, "
        "dog 10; passed over: 1 other file, such as notes.txt"
    )
    many = describe(load_data(save(tmp_path / "a.npz", **arrays() | {"y": np.arange(N) % 30})))
    assert "30 classes in train: 0 3, 1 3, 2 2" in many
    assert many.endswith("8 3, ..., 28 3, 29 2")


@pytest.mark.told("Data", "a class without images", "a file that is no image", None)
def test_folder_with_its_flaws(folder):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no image; known kinds: \.bmp"):
        load_data(f"folder:{folder}")
    (folder / "empty").rmdir()
    (folder / "cat" / "zz.png").write_bytes(b"no png")
    with pytest.raises(OSError, match=r"zz\.png: not a readable image"):
        load_data(f"folder:{folder}")
    with pytest.raises(ValueError, match=r"at least two classes, got none"):
        load_data(f"folder:{folder}/cat")


@pytest.mark.told("Data", "a damaged image", "an image that is gone")
def test_a_damaged_picture_is_named_when_it_is_decoded(folder):
    path = folder / "cat" / "01.png"
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:200])
    data = load_data(f"folder:{folder}")
    with pytest.raises(OSError, match=r"01\.png: damaged image .*replace the file"):
        data.train.source.gather(np.array([0]))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"01\.png: the image is gone"):
        data.train.source.gather(np.arange(10))


def test_a_changed_picture_changes_the_fingerprint(folder):
    before = load_data(f"folder:{folder}").train.source.fingerprint
    assert load_data(f"folder:{folder}").train.source.fingerprint == before
    picture(folder / "cat" / "01.png", value=99)
    assert load_data(f"folder:{folder}").train.source.fingerprint != before


def test_jpeg_at_a_reduced_scale_is_the_same_picture(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 512, dtype=np.uint8)[:, None, None], (1, 512, 3))
    Image.fromarray(ramp).save(tmp_path / "a.jpg", quality=95)
    source = FileImages([tmp_path / "a.jpg"], (32, 32), tmp_path)
    got = source.gather(np.array([0]))[0, 0, :, 7].float().numpy()
    assert np.abs(got - np.linspace(4, 251, 32)).max() < 3


# named


def test_digits():
    data = load_data("digits")
    assert data.image_shape == (1, 8, 8)
    assert [len(p) for p in (data.train, data.reward_validation, data.selection_validation)] == [
        1258,
        90,
        90,
    ]
    images = data.train.gather(np.arange(len(data.train)))
    assert (images.min(), images.max()) == (0, 255)
    # A linear rule must find the labels beside the images, not beside others.
    pixels = images.view(len(images), -1).double()
    goal = torch.eye(10, dtype=torch.float64)[data.train.labels]
    test = data.test.gather(np.arange(len(data.test))).view(len(data.test), -1).double()
    weights = torch.linalg.lstsq(
        torch.cat([pixels, pixels[:, :1] * 0 + 1], 1), goal, driver="gelsd"
    )
    guess = (torch.cat([test, test[:, :1] * 0 + 1], 1) @ weights.solution).argmax(1).numpy()
    assert (guess == data.test.labels).mean() > 0.9
    assert fetch_data("digits") is None
    assert probe_data("digits") == "ready"


def test_names_have_descriptions():
    names = dataset_names()
    assert list(names) == [
        "digits",
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "oxford-iiit-pet",
        "flowers102",
    ]
    assert all(text and "\n" not in text and "\t" not in text for text in names.values())
    with pytest.raises(ValueError, match="did you mean 'cifar10"):
        fetch_data("cifar")


def test_array_images_take_read_only_arrays_without_a_warning(recwarn):
    images = arrays()["X"]
    images.flags.writeable = False
    source = ArrayImages(images)
    assert np.array_equal(source.gather(np.array([2]))[0, 0].numpy(), images[2])
    assert not recwarn.list


def test_data_names_are_json(tmp_path):
    assert json.dumps(dataset_names())
    assert probe_data(f"folder:{tmp_path}") == "ready"
    assert probe_data(f"npz:{os.devnull}x") == "not found"
