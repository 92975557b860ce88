"""``folder:PATH``: one sub-folder of images for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gstds.envs.data.images import FileImages, open_image
from gstds.envs.data.raw_data import Content, make_content

__all__ = ["read_folder"]

_KINDS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_DEFAULT_SIDE = 64
_LARGEST_NATIVE_SIDE = 256


def read_folder(path: str | Path, image_size: int | None = None) -> Content:
    """Find the images of a folder and read their headers; pixels are decoded when asked for.

    Args:
        path: Holds one folder for each class, or ``train`` and ``test`` that each do. Images may
            lie deeper; other files and hidden ones are passed over.
        image_size: Side of the images that are handed out; by default their own size, if all have
            one size of at most 256 pixels, and 64 otherwise.

    Raises:
        FileNotFoundError: If there is no such folder.
        OSError: If an image's header cannot be read; the message names the file.
        ValueError: If there are fewer than two classes, or a class is empty.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"folder:{path}: there is no such folder")
    parts = [root]
    if (root / "train").is_dir() and (root / "test").is_dir():
        parts = [root / "train", root / "test"]
    names = _class_names(parts[0])
    found = [_images(part, names) for part in parts]
    side = _size([file for files, _ in found for file in files], image_size)
    sources = [FileImages(files, side, part) for (files, _), part in zip(found, parts, strict=True)]
    test = len(parts) == 2
    return make_content(
        f"folder:{path}",
        sources[0],
        found[0][1],
        sources[1] if test else None,
        found[1][1] if test else None,
        class_names=names,
    )


def _class_names(root: Path) -> list[str]:
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise ValueError(
            f"folder:{root} needs one sub-folder of images for each of at least two classes, "
            f"got {', '.join(names) or 'none'}"
        )
    return names


def _images(root: Path, names: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    strange = [n for n in _class_names(root) if n not in names]
    if strange:
        raise ValueError(f"folder:{root}: class {strange[0]!r} is not among the classes of train")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        mine = _image_files(root / name)
        if not mine and root.name != "test":
            raise ValueError(
                f"folder:{root / name} has no image; known kinds: {', '.join(sorted(_KINDS))}"
            )
        files += mine
        labels += [label] * len(mine)
    return files, np.array(labels, dtype=np.int64)


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _KINDS and not file.name.startswith(".") and file.is_file()
    )


def _size(files: Sequence[Path], image_size: int | None) -> tuple[int, int]:
    sizes = {_header(file) for file in files}
    if image_size is not None:
        return image_size, image_size
    if len(sizes) == 1 and max(max(size) for size in sizes) <= _LARGEST_NATIVE_SIDE:
        return next(iter(sizes))
    return _DEFAULT_SIDE, _DEFAULT_SIDE


def _header(file: Path) -> tuple[int, int]:
    try:
        with open_image(file) as image:
            return image.height, image.width
    except Exception as error:  # Pillow raises more than its own errors
        raise OSError(f"{file}: not a readable image ({error}); replace it or remove it") from error
