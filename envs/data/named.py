"""The data sets that have names: how each is read, fetched and probed."""

from __future__ import annotations

import importlib.util
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import cache_root, locked
from gstds.envs.data.downloads import quick_downloads, require_answer
from gstds.envs.data.fashion_mnist import (
    CLASS_NAMES,
    DIGESTS,
    fetch_fashion,
    probe_fashion,
    read_fashion,
)
from gstds.envs.data.images import ArrayImages, FileImages
from gstds.envs.data.raw_data import Content, crop_padding, make_content
from gstds.reference.vision import import_torchvision

__all__ = ["SOURCES", "NamedSource", "digits"]

_FILE_SIDE = 224


@dataclass(frozen=True)
class NamedSource:
    """A data set with a name.

    Attributes:
        description: One line.
        read: Reads it, fetching it if need be; takes the side of the images, or None.
        fetch: Makes sure that it is on this machine; returns its folder, or None if it needs none.
        probe: Says in a few words whether it can be had, without fetching it.
        files: Whether its images are read from files, so that their side can be chosen.
    """

    description: str
    read: Callable[[int | None], Content]
    fetch: Callable[[], Path | None]
    probe: Callable[[], str]
    files: bool = False


def digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return scikit-learn's handwritten digits: images (1797, 8, 8) of 0..255, labels (1797,).

    Its file is read where it lies: importing scikit-learn takes longer than a run on them.
    """
    spec = importlib.util.find_spec("sklearn")
    folder = Path(str(spec and spec.origin)).parent
    rows = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    images = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    return images, rows[:, -1].astype(np.int64)


def _read_digits(_: int | None) -> Content:
    images, labels = digits()
    return make_content("digits", ArrayImages(images), labels, None, None, pad=1)


def _read_fashion(_: int | None) -> Content:
    arrays = read_fashion()
    train, test = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
    return make_content(
        "fashion-mnist",
        # The digests have just been checked against the bytes, so they are not computed again.
        ArrayImages(arrays[train], DIGESTS[train]),
        arrays["train-labels-idx1-ubyte"],
        ArrayImages(arrays[test], DIGESTS[test]),
        arrays["t10k-labels-idx1-ubyte"],
        class_names=CLASS_NAMES,
        pad=2,
        flip=True,
    )


def _folder(name: str) -> Path:
    return cache_root() / "data" / name


def _torchvision(name: str, class_name: str, address: str, parts: list[dict[str, Any]]) -> Any:
    """Open torchvision's parts of a data set, fetching them where they are missing."""
    make = getattr(import_torchvision().datasets, class_name)
    folder = _folder(name)
    try:
        return [make(str(folder), **part) for part in parts]
    except (RuntimeError, OSError):
        pass
    with locked(folder / ".lock"):
        try:
            if not any(folder.rglob("*.t*gz")):
                require_answer(address)
            with quick_downloads():
                return [make(str(folder), download=True, **part) for part in parts]
        except (RuntimeError, OSError, EOFError, tarfile.TarError) as error:
            raise FileNotFoundError(
                f"{name} is not in {folder} and cannot be fetched: {str(error).strip()}. Either "
                f"connect and run `gstds data fetch {name}`, or copy that folder from a machine "
                "that has it"
            ) from error


def _cifar(name: str, class_name: str, description: str) -> NamedSource:
    def opened() -> Any:
        address = getattr(import_torchvision().datasets, class_name).url
        return _torchvision(name, class_name, address, [{"train": True}, {"train": False}])

    def read(_: int | None) -> Content:
        train, test = opened()
        return make_content(
            name,
            ArrayImages(train.data),
            np.array(train.targets),
            ArrayImages(test.data),
            np.array(test.targets),
            class_names=train.classes,
            pad=4,
            flip=True,
        )

    return NamedSource(
        description,
        read,
        lambda: (opened(), _folder(name))[1],
        lambda: _probe(name, getattr(import_torchvision().datasets, class_name), "url"),
    )


def _probe(name: str, data_set: Any, attribute: str) -> str:
    folder = _folder(name)
    if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
        return "ready"
    try:
        require_answer(_address(data_set, attribute))
    except OSError:
        return f"out of reach (no connection; nothing in {folder})"
    return "can be downloaded"


def _address(data_set: Any, attribute: str) -> str:
    value = getattr(data_set, attribute)
    return str(value if isinstance(value, str) else value[0][0])


def _photographs(
    name: str,
    class_name: str,
    attribute: str,
    files: str,
    parts: tuple[tuple[str, ...], str],
    description: str,
) -> NamedSource:
    """Photographs on disk; ``parts`` are the splits that make up train, and the test split."""

    def opened() -> Any:
        address = _address(getattr(import_torchvision().datasets, class_name), attribute)
        splits = [{"split": split} for split in (*parts[0], parts[1])]
        found = _torchvision(name, class_name, address, splits)
        _require_files(name, [Path(path) for part in found for path in getattr(part, files)])
        return found

    def read(image_size: int | None) -> Content:
        *train, test = opened()
        side = (image_size or _FILE_SIDE,) * 2
        paths = [Path(path) for part in train for path in getattr(part, files)]
        source = FileImages(paths, side, _folder(name))
        return make_content(
            name,
            source,
            np.array([label for part in train for label in part._labels]),
            FileImages([Path(path) for path in getattr(test, files)], side, _folder(name)),
            np.array(test._labels),
            class_names=test.classes,
            pad=crop_padding(source.shape),
            flip=True,
        )

    return NamedSource(
        description,
        read,
        lambda: (opened(), _folder(name))[1],
        lambda: _probe(name, getattr(import_torchvision().datasets, class_name), attribute),
        files=True,
    )


def _require_files(name: str, paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name}: {len(missing)} of {len(paths)} images are not there, such as {missing[0]}: "
            f"its unpacking was cut short. Delete {_folder(name)} and run `gstds data fetch {name}`"
        )


SOURCES: dict[str, NamedSource] = {
    "digits": NamedSource(
        "10 handwritten digits, 1,797 gray images of 8x8; ships with scikit-learn",
        _read_digits,
        lambda: None,
        lambda: "ready",
    ),
    "fashion-mnist": NamedSource(
        "10 kinds of clothing, 70,000 gray images of 28x28",
        _read_fashion,
        fetch_fashion,
        probe_fashion,
    ),
    "cifar10": _cifar("cifar10", "CIFAR10", "10 classes of objects, 60,000 color images of 32x32"),
    "cifar100": _cifar(
        "cifar100", "CIFAR100", "100 classes of objects, 60,000 color images of 32x32"
    ),
    "oxford-iiit-pet": _photographs(
        "oxford-iiit-pet",
        "OxfordIIITPet",
        "_RESOURCES",
        "_images",
        (("trainval",), "test"),
        "37 breeds of cats and dogs, 7,349 photographs",
    ),
    "flowers102": _photographs(
        "flowers102",
        "Flowers102",
        "_download_url_prefix",
        "_image_files",
        (("train", "val"), "test"),
        "102 kinds of flowers, 8,189 photographs; train is the published train and val parts",
    ),
}
