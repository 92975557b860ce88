"""The data sets that have names: how each is read, fetched and probed."""

from __future__ import annotations

import hashlib
import importlib.util
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.files import cache_root, locked
from gstds.envs.data import fashion_mnist as fashion
from gstds.envs.data.downloads import quick_downloads, require_answer
from gstds.envs.data.images import ArrayImages, FileImages, ImageSource
from gstds.envs.data.readers import Content, make_content
from gstds.reference.vision import import_torchvision

_FILE_SIDE = 224
_PUBLISHED_SUM = partial(hashlib.md5, usedforsecurity=False)  # what torchvision goes by
_ABSENT = "there is no"
_CUT_SHORT = "its unpacking was cut short"


@dataclass(frozen=True)
class NamedSource:
    """A data set with a name.

    Attributes:
        read: Reads it, fetching it if need be; takes the side of the images, or None.
        description: One line.
        fetch: Makes sure that it is on this machine; returns its folder, or None if it needs none.
        probe: Says in a few words whether it can be had, without fetching it.
        files: Not "" if its images are read from files, so that their side can be chosen.
        advice: What to do where it cannot be had.
    """

    read: Callable[[int | None], Content]
    description: str
    fetch: Callable[[], Path | None] = lambda: None
    probe: Callable[[], str] = lambda: "ready"
    files: str = ""
    advice: Callable[[], str] = lambda: ""


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
    return make_content("digits", (ArrayImages(images), labels))


def _read_fashion(_: int | None) -> Content:
    arrays, pairs = fashion.read_fashion(), []
    for part in ("train", "t10k"):
        name = f"{part}-images-idx3-ubyte"
        # The digests have just been checked against the bytes, so they are not computed again.
        images = ArrayImages(arrays[name], fashion.DIGESTS[name])
        pairs += [(images, arrays[f"{part}-labels-idx1-ubyte"])]
    names = fashion.CLASS_NAMES
    return make_content("fashion-mnist", *pairs, class_names=names, pad=2, flip=True)


@dataclass(frozen=True)
class _Published:
    """A data set that torchvision fetches and opens; otherwise as `NamedSource`.

    Attributes:
        name: Its name here, and of its folder in the cache.
        class_name: Its class of ``torchvision.datasets``.
        description: One line.
        parts: What that class takes for each part that makes up train, and last for the test part.
        files: The attribute that lists image files; "" where ``data`` holds the pixels.
        address: The attribute that says where it is downloaded from.
        inside: The folder, in its own, that torchvision wants the files in.
        names: The class -> those files and folders, each with its MD5, None for none.
    """

    name: str
    class_name: str
    description: str
    inside: str
    names: Callable[[Any], dict[str, str | None]]
    parts: Sequence[Mapping[str, Any]] = ({"train": True}, {"train": False})
    files: str = ""
    address: str = "url"

    @property
    def _folder(self) -> Path:
        return cache_root() / "data" / self.name

    @property
    def _kind(self) -> Any:
        return getattr(import_torchvision().datasets, self.class_name)

    def _require_answer(self) -> None:
        address = getattr(self._kind, self.address)
        require_answer(address if isinstance(address, str) else address[0][0])

    def probe(self) -> str:
        """Say in a few words whether it can be had; what is there is opened, nothing fetched."""
        parts, problem = self._look()
        if parts:
            return "ready"
        if not problem.startswith(_ABSENT):
            return f"damaged ({problem})"
        try:
            self._require_answer()
        except OSError:
            return f"out of reach (no connection; {problem})"
        return "can be downloaded"

    def advice(self) -> str:
        """Say what to do where it is not there."""
        names = ", ".join(self.names(self._kind))
        return (
            f"connect and run `gstds data fetch {self.name}`, or copy {names} from a machine that "
            f"has them into {self._folder / self.inside}"
        )

    def fetch(self) -> Path:
        """Make sure that it is on this machine; return its folder."""
        self._open()
        return self._folder

    def read(self, image_size: int | None) -> Content:
        """Read it, fetching it if need be; files' images get the given side."""
        *train, test = self._open()
        pairs = [self._images(parts, image_size or _FILE_SIDE) for parts in (train, [test])]
        return make_content(self.name, *pairs, class_names=test.classes, flip=True)

    def _images(self, parts: Sequence[Any], side: int) -> tuple[ImageSource, npt.NDArray[Any]]:
        if not self.files:
            return ArrayImages(parts[0].data), np.array(parts[0].targets)
        labels = np.array([label for part in parts for label in part._labels])
        return FileImages(self._paths(parts), (side, side), self._folder), labels

    def _paths(self, parts: Sequence[Any]) -> list[Path]:
        return [Path(path) for part in parts for path in getattr(part, self.files)]

    def _look(self) -> tuple[list[Any], str]:
        """Return torchvision's parts; or none, and what is wrong with the files."""
        place = self._folder / self.inside
        try:
            parts = [self._kind(str(self._folder), **part) for part in self.parts]
        except Exception as error:  # whatever torchvision raises at files that are not its own
            for name, wanted in self.names(self._kind).items():
                if not (place / name).exists():
                    return [], f"{_ABSENT} {place / name}"
                if wanted and _md5(place / name) != wanted:
                    return [], f"{place / name} is damaged (its MD5 is not the published one)"
            return [], f"{place}: {str(error).strip()}"
        paths = self._paths(parts) if self.files else []
        missing = [path for path in paths if not path.is_file()]
        if missing:
            told = f"{len(missing)} of {len(paths)} images are not there, such as {missing[0]}"
            return [], f"{told}: {_CUT_SHORT}"
        return parts, ""

    def _open(self) -> list[Any]:
        """Return torchvision's parts, fetched where they are missing."""
        parts, problem = self._look()
        if _CUT_SHORT in problem:
            raise FileNotFoundError(
                f"{self.name}: {problem}. Delete {self._folder} and run "
                f"`gstds data fetch {self.name}`"
            )
        return parts or self._fetched(problem)

    def _fetched(self, problem: str) -> list[Any]:
        folder = self._folder
        with locked(folder / ".lock"):
            try:
                if not any(folder.rglob("*.t*gz")):
                    self._require_answer()
                with quick_downloads():
                    for part in self.parts:
                        self._kind(str(folder), download=True, **part)
                parts, problem = self._look()
                if problem:
                    raise FileNotFoundError(problem)
            except (RuntimeError, OSError, EOFError, tarfile.TarError) as error:
                raise FileNotFoundError(
                    f"{self.name} is not in {folder} ({problem}) and cannot be fetched: "
                    f"{str(error).strip()}. Either {self.advice()}"
                ) from error
        return parts


def _md5(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, _PUBLISHED_SUM).hexdigest()


def _cifar(kind: Any) -> dict[str, str | None]:
    parts = {str(name): str(md5) for name, md5 in (*kind.train_list, *kind.test_list)}
    return parts | {kind.meta["filename"]: kind.meta["md5"]}


def _flowers(kind: Any) -> dict[str, str | None]:
    lists: list[tuple[str, str]] = [kind._file_dict[key] for key in ("label", "setid")]
    return {"jpg": None, **dict(lists)}


SOURCES: dict[str, NamedSource | _Published] = {
    "digits": NamedSource(
        _read_digits, "10 handwritten digits, 1,797 gray images of 8x8; ships with scikit-learn"
    ),
    "fashion-mnist": NamedSource(
        _read_fashion,
        "10 kinds of clothing, 70,000 gray images of 28x28",
        fashion.fetch_fashion,
        fashion.probe_fashion,
        advice=fashion.advice,
    ),
    "cifar10": _Published(
        "cifar10",
        "CIFAR10",
        "10 classes of objects, 60,000 color images of 32x32",
        inside="cifar-10-batches-py",
        names=_cifar,
    ),
    "cifar100": _Published(
        "cifar100",
        "CIFAR100",
        "100 classes of objects, 60,000 color images of 32x32",
        inside="cifar-100-python",
        names=_cifar,
    ),
    "oxford-iiit-pet": _Published(
        "oxford-iiit-pet",
        "OxfordIIITPet",
        "37 breeds of cats and dogs, 7,349 photographs",
        inside="oxford-iiit-pet",
        names=lambda _: dict.fromkeys(["images", "annotations"]),
        parts=({"split": "trainval"}, {"split": "test"}),
        files="_images",
        address="_RESOURCES",
    ),
    "flowers102": _Published(
        "flowers102",
        "Flowers102",
        "102 kinds of flowers, 8,189 photographs; train is the published train and val parts",
        inside="flowers-102",
        names=_flowers,
        parts=({"split": "train"}, {"split": "val"}, {"split": "test"}),
        files="_image_files",
        address="_download_url_prefix",
    ),
}
