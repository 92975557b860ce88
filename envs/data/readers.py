"""From files and arrays to checked content: ``npz:PATH``, ``folder:PATH``, ``module:function``."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstds.common.checks import check_not_empty, import_attribute, users_code
from gstds.common.files import sha256
from gstds.common.npz import NpzError, array_names, read_arrays
from gstds.envs.data.images import (
    ArrayImages,
    FileImages,
    ImageSource,
    SequenceImages,
    has_sixteen_bits,
    open_image,
    sixteen_bit_depth,
)
from gstds.reference.vision import mend_imports

_KEYS = ("X", "y", "X_test", "y_test", "class_names", "fingerprint")
_LAYOUTS = (
    _KEYS[:4],
    ("x_train", "y_train", "x_test", "y_test"),  # Keras
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
    ("images", "labels", "test_images", "test_labels"),
    ("x", "y", "x_test", "y_test"),
)
"""How people name the images, their labels, and those of the test part."""

_KINDS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_DEFAULT_SIDE = 64
_PARTS = {
    "train": ("training", "train"),
    "test": ("testing", "test"),
    "val": ("validation", "evaluation", "valid", "eval", "val", "dev"),
}
"""How folders name the parts of a data set, a word before those that it holds."""

_LARGEST_NATIVE_SIDE = 256
_MISSING = ("None", "nan", "<NA>", "NaT")
_ORIENTATION = 0x0112
_MARKS = (
    "of 16 bits",
    "photographs with an orientation tag, which is not applied",
    "files of several images, of which the first is read",
)


@dataclass(frozen=True)
class Content:
    """A data set as it was read, before any split.

    Attributes:
        source: The images.
        labels: Class (N,) of each, in 0..C-1.
        class_names: Names (C,).
        test: The images of the data's own test part and their classes (M,), if there is one.
        pad: Padding of the random crop that suits the data.
        flip: Whether a mirrored image means the same.
        notes: What was passed over, or taken for something; sentences.
    """

    source: ImageSource
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    test: tuple[ImageSource, NDArray[np.int64]] | None
    pad: int
    flip: bool
    notes: tuple[str, ...] = ()


def make_content(
    where: str,
    train: tuple[ImageSource, Any],
    test: tuple[ImageSource, Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    pad: int | None = None,
    flip: bool = False,
    notes: Sequence[str] = (),
) -> Content:
    """Check labels and shapes and put the content together.

    Args:
        where: What messages call the data set.
        train: The images, and whole numbers (N,) in 0..C-1, every class present.
        test: The images of the test part and their classes (M,), or None.
        class_names: Names (C,); the numbers themselves by default.
        pad: Padding of the crop; by default an eighth of the shorter side, at least one pixel.
        flip: Whether a mirrored image means the same.
        notes: What a person should know.

    Raises:
        TypeError: If labels are not whole numbers.
        ValueError: If labels, names or shapes do not fit together.
    """
    source, labels = train[0], _labels(f"{where}: y", train[1], len(train[0]))
    names = _names(where, labels, class_names)
    if test is not None:
        test = test[0], _labels(f"{where}: y_test", test[1], len(test[0]))
        if test[0].shape != source.shape:
            raise ValueError(
                f"{where}: X_test has images of shape (C, H, W) = {test[0].shape}, X of "
                f"{source.shape}; give both one shape"
            )
        if test[0].fingerprint == source.fingerprint:
            raise ValueError(f"{where}: the test part holds the very images of train; leave it out")
        last = int(test[1].max())
        if last >= len(names):
            raise ValueError(f"{where}: y_test holds class {last}, but y ends at {len(names) - 1}")
    padding = max(1, min(source.shape[1:]) // 8) if pad is None else pad
    return Content(source, labels, names, test, padding, flip, tuple(notes))


def _labels(name: str, labels: Any, length: int) -> NDArray[np.int64]:
    """Return labels as int64 (N,) if there is one whole number of at least 0 for each image."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold whole numbers, got dtype {array.dtype}")
    if array.shape == (length, 1):  # a column, as MedMNIST and Keras' CIFAR have it
        array = array[:, 0]
    if array.shape != (length,):
        raise ValueError(
            f"{name} must have shape ({length},), one label for each image, got {array.shape}"
        )
    if length == 0:
        raise ValueError(f"{name} is empty: give at least two samples of two classes")
    if int(array.min()) < 0:
        raise ValueError(f"{name} must be in 0..C-1, got {int(array.min())}: number classes from 0")
    return array.astype(np.int64)


def _names(
    where: str, labels: NDArray[np.int64], class_names: Sequence[str] | None
) -> tuple[str, ...]:
    present = np.unique(labels)
    given: Iterable[Any] = range(len(present)) if class_names is None else class_names
    names = tuple(str(name) for name in given)
    if len(present) < 2:
        raise ValueError(f"{where}: y holds one class, {present[0]}; at least two are needed")
    if present[-1] >= len(names) and class_names is not None:
        raise ValueError(f"{where}: y holds class {present[-1]}, class_names only {len(names)}")
    missing = np.setdiff1d(np.arange(len(names)), present)
    if len(missing):
        raise ValueError(
            f"{where}: y has no sample of class {missing[0]}; number the classes 0..C-1 without "
            "gaps"
        )
    return names


def read_npz(path: str | Path) -> Content:
    """Read arrays ``X``, ``y`` and, if they are there, ``X_test``, ``y_test``, ``class_names``.

    The first four may have the names of Keras' files (``x_train`` and so on), of MedMNIST's
    (``train_images``, ``train_labels`` and so on), or ``images`` and ``labels``. What else there is
    is told, and not read.

    Args:
        path: A file of `numpy.savez` or `numpy.savez_compressed`.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If ``X`` is not uint8 or ``y`` not whole numbers.
        ValueError: If the file is damaged, a key is missing or shapes do not fit together.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"npz:{path}: there is no such file; give the path of an .npz file")
    try:
        there = array_names(file)
        arrays = read_arrays(file, _ours(there))
    except (NpzError, OSError) as error:
        raise ValueError(
            f"npz:{error}; write it with numpy.savez(path, X=images, y=labels), no object arrays"
        ) from error
    return _from_mapping(f"npz:{path}", arrays, there)


def read_function(name: str) -> Content:
    """Call a user's ``module:function`` and read the mapping that it returns.

    Args:
        name: For example ``my_data:load``; the module may lie in the current folder. The mapping
            has the keys of `read_npz`; ``X`` and ``X_test`` may be lazily indexed sequences, of
            which nothing but the first image of ``X`` is read; ``fingerprint`` (a key, or an
            attribute of ``X``) then says which content it is.

    Raises:
        TypeError: If the function returns no mapping, or arrays of a wrong type.
        ValueError: If the module or function is not there, or shapes do not fit together.
    """
    if os.getcwd() not in sys.path:  # for good: what the module imports later is found as well
        sys.path.append(os.getcwd())
    mend_imports()
    function = import_attribute(f"dataset {name!r}", name)
    with users_code(f"dataset {name!r}"):
        answer = function()
    if not isinstance(answer, Mapping):
        raise TypeError(
            f"{name} must return a mapping with the keys 'X' and 'y', got {type(answer).__name__}"
        )
    return _from_mapping(name, answer)


def _ours(there: Iterable[Any]) -> dict[str, str]:
    """Return what each name means in the first layout whose images and labels are there."""
    fits = (names for names in _LAYOUTS if set(names[:2]) <= set(there))
    return dict(zip((*next(fits, _KEYS[:4]), *_KEYS[4:]), _KEYS, strict=True))


def _from_mapping(where: str, given: Mapping[str, Any], there: Sequence[str] = ()) -> Content:
    """Put together what is given; ``there`` names also what was left in a file."""
    ours, found = _ours(given), sorted(map(str, there or given))
    arrays = {ours[name]: value for name, value in given.items() if name in ours}
    missing = [key for key in ("X", "y") if key not in arrays]
    if missing:
        told = ", ".join(found) or "nothing"
        raise ValueError(f"{where}: {' and '.join(missing)} missing; found {told}")
    if ("X_test" in arrays) != ("y_test" in arrays):
        alone, other = ("X_test", "y_test") if "X_test" in arrays else ("y_test", "X_test")
        raise ValueError(f"{where}: {alone} stands without {other}; give both or neither")
    names = arrays.get("class_names", ())
    if np.ndim(names) != 1 or len(set(map(str, names))) < len(names):
        told = f"a list of different names, in the order of the classes, got {names!r:.80}"
        raise ValueError(f"{where}: class_names must be {told}")
    arrays |= _numbered(where, arrays)
    first = _source(where, arrays, "X")
    pairs = [(first, arrays["y"])]
    if "X_test" in arrays:
        pairs += [(_source(where, arrays, "X_test", first.shape), arrays["y_test"])]
    unread = ", ".join(name for name in found if name not in ours)
    notes = [f"not read: {unread}"] * bool(unread)
    return make_content(where, *pairs, class_names=arrays.get("class_names"), notes=notes)


def _plain(name: str, labels: Any) -> NDArray[Any]:
    """Return labels as an array, of a plain type where each is of one.

    Raises:
        ValueError: If some are missing.
    """
    held = np.asanyarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    array, missing = np.asarray(held), np.ma.getmaskarray(held)
    if array.dtype.kind == "f":
        missing = missing | np.isnan(array)
    elif array.dtype == object:  # pandas has several
        told = [str(one) in _MISSING and not isinstance(one, str) for one in array.flat]
        missing = missing | np.reshape(told, array.shape)
    if missing.any():
        count, row = f"{int(missing.sum())} of {len(array)}", int(np.argwhere(missing)[0, 0])
        known = f"labels (masked, NaN or None), the first that of sample {row}"
        raise ValueError(f"{name} lacks {count} {known}; leave those samples out")
    if array.dtype == object and len({type(one) for one in array.flat}) == 1:
        array = np.array(array.tolist())
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _numbered(where: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``y`` and ``y_test`` as numbers where they are names or one-hot rows; and the names.

    What has no one meaning is left for `_labels` to refuse.
    """
    given = {k: _plain(f"{where}: {k}", arrays[k]) for k in ("y", "y_test") if k in arrays}
    for key, labels in given.items():
        if labels.ndim == 2 and labels.shape[1] > 1 and np.isin(labels, (0, 1)).all():
            several = int((labels.sum(axis=1) != 1).sum())
            if several:
                raise ValueError(
                    f"{where}: {key} has {several} rows of no class or of several; a sample has "
                    "one class here: leave those samples out, or choose one class for each"
                )
            given[key] = labels.argmax(axis=1)
        elif labels.dtype.kind == "b" or (
            labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels))
        ):
            given[key] = labels.astype(np.int64)
    named = {key: labels.reshape(-1) for key, labels in given.items() if labels.dtype.kind == "U"}
    if not named:
        return given
    if len(named) < len(given):
        raise ValueError(f"{where}: y and y_test must both hold names, or both numbers")
    names = [str(name) for name in arrays.get("class_names", np.unique(named["y"]))]
    for key, labels in named.items():
        strange = sorted(set(labels.tolist()) - set(names))
        if strange:
            raise ValueError(f"{where}: {key} holds {strange[0]!r}, which is no class of {names}")
        given[key] = np.array([names.index(name) for name in labels.tolist()], dtype=np.int64)
    return given | {"class_names": names}


def _on_disk(images: Any) -> bool:
    """Say whether an array, or what it is a view of, is a file mapped into memory."""
    while isinstance(images, np.ndarray):
        images = images.base
    return isinstance(images, mmap.mmap)


def _source(
    where: str, arrays: Mapping[str, Any], key: str, shape: tuple[int, int, int] | None = None
) -> ImageSource:
    images, label_key = arrays[key], key.replace("X", "y")
    try:
        if isinstance(images, np.ndarray) and not _on_disk(images):
            held = ArrayImages(images, name=key)
            check_not_empty(key, images)
            return held
        if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
            raise TypeError(
                f"{key} must be a uint8 array or a sequence with __len__ and __getitem__, "
                f"got {type(images).__name__}"
            )
        labels = _labels(label_key, arrays[label_key], len(images))  # before any item is read
        given = arrays.get("fingerprint", getattr(images, "fingerprint", None))
        if not isinstance(given, str | int | None):
            raise TypeError(f"fingerprint must be a text, got {given!r:.80}")
        source = SequenceImages(images, str(given), shape, key)
        given = given or sha256(source.sample().data)
        source.fingerprint = sha256(f"{key}|{len(images)}|{given}|", labels.tobytes())
        return source
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error


def read_folder(path: str | Path, image_size: int | None = None) -> Content:
    """Find the images of a folder and read their headers; pixels are decoded when asked for.

    Args:
        path: Holds one folder for each class, or ``train`` and ``test`` (or ``val``, ``training``
            and so on) that each do. Images may lie deeper; other files are passed over.
        image_size: Side of the images that are handed out; by default their own size, if all have
            one size of at most 256 pixels, and 64 otherwise.

    Raises:
        FileNotFoundError: If there is no such folder.
        OSError: If an image's header cannot be read; the message names the file.
        ValueError: If there are fewer than two classes, a class is empty, or the parts are not
            what they should be.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"folder:{path}: there is no such folder")
    parts, notes = _parts(root)
    names = _class_names(parts[0])
    found = [_images(part, names, may_lack=part is not parts[0]) for part in parts]
    skipped = [file for *_, others in found for file in others]
    if skipped:
        such = ", ".join(file.relative_to(root).as_posix() for file in skipped[:3])
        files = "file" + "s" * (len(skipped) > 1)
        notes.append(f"passed over: {len(skipped)} other {files}, such as {such}")
    size, deep, told = _headers([file for files, *_ in found for file in files], image_size)
    notes += told
    depth = sixteen_bit_depth(deep) if deep else 16
    if depth != 16:
        notes.append(
            f"{len(deep)} files of 16 bits are read as {depth} bits, which is what they hold"
        )
    pairs = [
        (FileImages(files, size, part, depth), np.array(labels, dtype=np.int64))
        for (files, labels, _), part in zip(found, parts, strict=True)
    ]
    return make_content(f"folder:{path}", *pairs, class_names=names, notes=notes)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _part_of(name: str) -> tuple[str, str]:
    """Return the part that a folder's name begins or ends with, "" for none; and what is left."""
    for part, words in _PARTS.items():
        for word in words:
            if name.startswith(word) or name.endswith(word):
                return part, name.replace(word, "", 1)
    return "", name


def _parts(root: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of train and, if there is one, of test; and what to tell of the others."""
    found: dict[str, Path] = {}
    folders = _folders(root)
    told = {folder: _part_of(folder.name.lower()) for folder in folders}
    alike = len({rest for _, rest in told.values()}) == 1  # as train_set and test_set are
    for folder, (part, rest) in told.items():
        if part and (alike or not rest):
            if part in found:
                raise ValueError(
                    f"folder:{root} holds {found[part].name} and {folder.name}, which both "
                    f"mean its {part} part; rename one"
                )
            found[part] = folder
    if "train" not in found or len(found) == 1:
        if found and len(found) == len(folders):
            raise ValueError(
                f"folder:{root} holds {' and '.join(p.name for p in folders)} and nothing beside: "
                "it needs train and test (or val); or give one of them alone, such as "
                f"folder:{folders[0]}, from which a test part is then drawn"
            )
        return [root], []
    parts = [found["train"], found.get("test") or found["val"]]
    notes = [f"the test part is {parts[1].name}"] if "test" not in found else []
    unread = [folder.name for folder in folders if folder not in parts]
    if unread:
        notes.append(f"{', '.join(unread)} is not read; validation is drawn from train")
    return parts, notes


def _class_names(root: Path) -> list[str]:
    folders = _folders(root)
    if len(folders) < 2:
        hint = f"; or give folder:{folders[0]}" if folders and _folders(folders[0]) else ""
        raise ValueError(
            f"folder:{root} needs one sub-folder of images for each of at least two classes, "
            f"got {', '.join(p.name for p in folders) or 'none'}{hint}"
        )
    if all(_parts_inside(folder) for folder in folders):
        raise ValueError(
            f"folder:{root}: each of {folders[0].name}, {folders[1].name} ... has parts of its own "
            "(train, test); put the parts above the classes: train/CLASS and test/CLASS"
        )
    return [folder.name for folder in folders]


def _parts_inside(folder: Path) -> bool:
    told = {_part_of(inner.name.lower()) for inner in _folders(folder)}
    return len({part for part, rest in told if part and not rest}) > 1


def _images(
    root: Path, names: Sequence[str], *, may_lack: bool
) -> tuple[list[Path], list[int], list[Path]]:
    """Return a part's images, class by class, the class of each, and the files that are none."""
    strange = [name for name in _class_names(root) if name not in names]
    if strange:
        raise ValueError(f"folder:{root}: class {strange[0]!r} is not among the classes of train")
    files: list[Path] = []
    labels: list[int] = []
    skipped = [file for file in sorted(root.iterdir()) if file.is_file() and file.name[0] != "."]
    for label, name in enumerate(names):
        mine = [
            file
            for file in sorted((root / name).rglob("*"))
            if (file.is_file() or file.is_symlink())
            and not any(part[0] == "." for part in file.relative_to(root / name).parts)
        ]
        images = [file for file in mine if file.suffix.lower() in _KINDS and file.is_file()]
        skipped += [file for file in mine if file not in set(images)]
        if not images and not may_lack:
            raise ValueError(f"folder:{root / name} has no image; known kinds: {', '.join(_KINDS)}")
        files += images
        labels += [label] * len(images)
    return files, labels, skipped


def _headers(
    files: Sequence[Path], image_size: int | None
) -> tuple[tuple[int, int], list[Path], list[str]]:
    """Return the size that images get, the files of 16 bits a pixel, and what to tell of others."""
    found = {file: _header(file) for file in files}
    told = [(mark, [file for file in files if found[file][1] == mark]) for mark in _MARKS]
    notes = [f"{mark}: {len(such)}, such as {such[0].name}" for mark, such in told[1:] if such]
    sizes = {size for size, _ in found.values()}
    if image_size is None and len(sizes) == 1:
        size = sizes.pop()
        if max(size) <= _LARGEST_NATIVE_SIDE:
            return size, told[0][1], notes
    side = image_size or _DEFAULT_SIDE
    return (side, side), told[0][1], notes


def _header(file: Path) -> tuple[tuple[int, int], str]:
    """Return height and width, and what of `_MARKS` it is, or ""."""
    try:
        with open_image(file) as image:
            photo = image.format in ("JPEG", "MPO")  # whose further images are previews
            turned = photo and image.getexif().get(_ORIENTATION, 1) != 1
            several = not photo and getattr(image, "n_frames", 1) > 1
            marks = zip(_MARKS, (has_sixteen_bits(image), turned, several), strict=True)
            return (image.height, image.width), next((mark for mark, so in marks if so), "")
    except Exception as error:  # Pillow raises more than its own errors
        raise OSError(f"{file}: not a readable image ({error}); replace it or remove it") from error


def images_at(
    path: str | Path, size: tuple[int, int], depth: int = 16
) -> tuple[list[str], ImageSource]:
    """Find images that belong to no data set: of a file, a folder and those below, or an ``.npz``.

    Args:
        path: Where they are; in an ``.npz`` under a name of those that `read_npz` knows.
        size: Height and width that files are handed out in.
        depth: How many bits the values of 16-bit files take.

    Returns:
        What each image is called, and the images.

    Raises:
        OSError: If there is no such file.
        TypeError: If the array is not of uint8.
        ValueError: If there are no images.
    """
    place = Path(path).expanduser()
    found = [f for f in sorted(place.rglob("*")) if f.suffix.lower() in _KINDS]
    files = [f for f in found if f.name[0] != "."] if place.is_dir() else [place]
    names = [layout[0] for layout in _LAYOUTS] if place.suffix == ".npz" else []
    arrays = read_arrays(place, names) if names else {}
    for key, array in arrays.items():
        rows = [f"{path}:{key}[{row}]" for row in range(len(array))]
        return rows, ArrayImages(array, "unknown", f"{path}: {key}")
    if names or not files:
        raise ValueError(f"{path} holds no images; known kinds: {', '.join(_KINDS)}, .npz with X")
    root = place if place.is_dir() else place.parent
    return [str(file) for file in files], FileImages(files, size, root, depth)
