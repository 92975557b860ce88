"""Where a data set's images come from: arrays in memory, files on disk, a user's own sequence.

A source is asked for rows and answers with a fresh uint8 tensor (n, C, H, W): nothing else is
loaded, decoded or copied. Each carries a digest of its content.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gstds.common.checks import LEAST_SPAN, check_not_empty, users_code
from gstds.common.files import cache_root, sha256, write_bytes

if TYPE_CHECKING:
    from PIL import Image


Shape = tuple[int, int, int]
_EDGE_BYTES = 4096
_CHECKED_AT_ONCE = 64
_MOST_LOOKED_AT = 64
_SAMPLED = 16
_log = logging.getLogger(__name__)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MOST_PIXELS = 89_000_000  # what Pillow warns at


class ArrayImages:
    """Images held in memory.

    Args:
        images: uint8, (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3. Copied only where
            the layout or a read-only array asks for it.
        fingerprint: Digest of the content, where it is known already; otherwise it is computed.
        name: What messages call the array.

    Attributes:
        pixels: All of them, uint8 (N, C, H, W).

    Raises:
        TypeError: If the images are no uint8 array.
        ValueError: If their shape is another one.
    """

    def __init__(self, images: Any, fingerprint: str | None = None, name: str = "X") -> None:
        planes = np.require(_planes(images, name, "N, "), requirements=["C", "W"])
        self.pixels = torch.from_numpy(planes)
        self.shape: Shape = planes.shape[1:]
        self.fingerprint: str = fingerprint or sha256(repr(planes.shape), planes.data)

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return the images of ``rows`` (n,) as uint8 (n, C, H, W)."""
        return self.pixels.index_select(0, torch.from_numpy(np.array(rows, dtype=np.int64)))


class FileImages:
    """Image files, opened and decoded when they are asked for, as RGB.

    The shorter side is scaled to the wanted one and the middle is cut out. Orientation tags are
    not applied. JPEG files are decoded at a reduced scale where that is still large enough.

    Args:
        paths: The files, one per row.
        size: Height and width of the answer.
        root: The folder that the fingerprint's paths are relative to.
        depth: How many bits the values of 16-bit files take, see `sixteen_bit_depth`.

    Attributes:
        names: What the files are called, from ``root`` on.
    """

    def __init__(
        self, paths: Sequence[Path], size: tuple[int, int], root: Path, depth: int = 16
    ) -> None:
        self._paths, self.depth = tuple(str(path) for path in paths), depth
        self.shape: Shape = (3, *size)
        self.names = tuple(path.relative_to(root).as_posix() for path in paths)
        parts = (
            name.encode("utf-8", "surrogateescape") + b"\0" + _file_digest(path)
            for name, path in zip(self.names, paths, strict=True)
        )
        how = f"{size!r}|{depth}" if depth != 16 else repr(size)
        self.fingerprint: str = sha256(how, parts=parts)

    def __len__(self) -> int:
        return len(self._paths)

    def gather(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return the images of ``rows`` (n,) as uint8 (n, 3, H, W).

        Raises:
            OSError: If a file is gone or damaged; the message names it.
        """
        out = np.empty((len(rows), *self.shape[1:], 3), dtype=np.uint8)
        # Pillow decodes outside the interpreter's lock, so threads help.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for position, image in enumerate(pool.map(self._decode, rows.tolist())):
                out[position] = image
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode every image once, so that no damaged one stops a run that has begun.

        That it was done is noted in the cache, by the fingerprint. Images of one flat color are
        counted, and told.

        Args:
            progress: Called with what is done, and the total.

        Raises:
            OSError: If files are damaged, the message names the first; or if all are empty.
        """
        note = cache_root() / "checked" / self.fingerprint
        if note.exists():
            return
        damaged: list[str] = []
        flat: list[str] = []
        low, high = 255, 0
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for done, found in enumerate(pool.map(self._look, range(len(self)))):
                if isinstance(found, str):
                    damaged.append(found)
                else:
                    flat += [self._paths[done]] * bool((found[1] - found[0] < LEAST_SPAN).all())
                    low, high = min(low, int(found[0].min())), max(high, int(found[1].max()))
                if progress and done % _CHECKED_AT_ONCE == 0:
                    progress(done, len(self))
        if damaged:
            more = f"; {len(damaged)} of {len(self)} files are damaged" if len(damaged) > 1 else ""
            raise OSError(damaged[0] + more)
        if high - low < LEAST_SPAN:
            raise OSError(
                f"{self._paths[0]} and all other images are empty, with values from {low} to "
                f"{high} of 255; were they of 16 bits a channel, or drawn in the transparency "
                "alone? Convert them to 8 bits, on a background"
            )
        if flat:
            _log.warning(
                "%d of %d images are one flat color, such as %s", len(flat), len(self), flat[0]
            )
        if progress:
            progress(len(self), len(self))
        with contextlib.suppress(OSError):  # a full cache costs another look the next time
            write_bytes(note, b"")

    def _look(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | str:
        """Return the smallest and largest value by channel, or what is wrong with the file."""
        try:
            pixels = self._decode(row)
        except OSError as error:
            return str(error)
        planes = pixels.reshape(-1, 3).T
        return planes.min(axis=1).astype(np.int64), planes.max(axis=1).astype(np.int64)

    def _decode(self, row: int) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps

        path, (_, height, width) = self._paths[row], self.shape
        try:
            with open_image(path) as image:
                if image.size != (width, height):
                    image.draft("RGB", (width, height))
                pixels = _eight_bits(image, self.depth).convert("RGB")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path}: the image is gone since the data set was read"
            ) from error
        # Pillow raises more than its errors: struct.error, for one, or a decompression bomb's.
        except Exception as error:
            raise OSError(
                f"{path}: damaged image ({error}); replace the file or remove it"
            ) from error
        if pixels.size != (width, height):
            pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(pixels)


class SequenceImages:
    """A user's own sequence: ``len(images)`` and ``images[i]``, uint8 (H, W) or (H, W, C).

    Args:
        images: The sequence. An item is read only when its row is asked for.
        fingerprint: Digest of what is known without reading the items.
        shape: (C, H, W); if it is not given, item 0 is read for it.
        name: What messages call the sequence.

    Raises:
        TypeError: If an item is no uint8 array.
        ValueError: If an item has another shape.
    """

    shape: Shape = (0, 0, 0)

    def __init__(
        self, images: Any, fingerprint: str, shape: Shape | None = None, name: str = "X"
    ) -> None:
        self._images, self._length, self._name = images, len(images), name
        self.shape = shape or self._item(0).shape
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return self._length

    def gather(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return the images of ``rows`` (n,) as uint8 (n, C, H, W); reads exactly these items."""
        out = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for position, row in enumerate(rows.tolist()):
            item = self._item(row)
            if item.shape != self.shape:
                raise ValueError(
                    f"{self._name}[{row}] has shape (C, H, W) = {item.shape}, others have "
                    f"{self.shape}: give every image one shape"
                )
            out[position] = item
        return torch.from_numpy(out)

    def sample(self) -> NDArray[np.uint8]:
        """Return up to 16 images (m, C, H, W), evenly spaced, which stand for all.

        Raises:
            ValueError: If they show nothing, or are others when they are read again.
        """
        rows = np.unique(np.linspace(0, len(self) - 1, _SAMPLED).astype(np.int64))
        pixels, again = self.gather(rows).numpy(), self.gather(rows).numpy()
        check_not_empty(self._name, pixels)
        if not np.array_equal(pixels, again):
            told = "hands out other images when it is read again; leave random transforms out"
            raise ValueError(f"{self._name} {told}")
        return pixels

    def _item(self, row: int) -> NDArray[np.uint8]:
        name = f"{self._name}[{row}]"
        with users_code(name):
            item = self._images[row]
        if hasattr(item, "mode") and hasattr(item, "convert"):  # an image of Pillow's
            if item.mode[0] in "IF":
                raise TypeError(
                    f"{name} has mode {item.mode!r}, more than 8 bits a channel: scale the images "
                    "to 0..255 and convert them to uint8"
                )
            # Of a palette the pixels are but indices; a gray one may stand among colored ones.
            gray = item.mode in ("1", "L") and self.shape[0] != 3
            item = item.convert("L" if gray else "RGB")
        plain = isinstance(item, tuple | list | str | bytes | Mapping)
        return _planes(item if plain else np.asarray(item), name)


ImageSource = ArrayImages | FileImages | SequenceImages
"""Images of one ``shape`` (C, H, W), read by row, with the ``fingerprint`` of their content."""


def _planes(images: Any, name: str, lead: str = "") -> NDArray[np.uint8]:
    """Return checked images as (..., C, H, W); ``lead`` names the axes before height."""
    if np.ma.is_masked(images):
        raise ValueError(f"{name} has masked pixels; give them a value, such as X.filled(0)")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(
            f"{name} must be a uint8 array, got {kind}: an image alone, read from its file and "
            "scaled to 0..255; those in [0, 1] become it by (X * 255).round().astype('uint8')"
        )
    before = 1 if lead else 0
    planes = images[..., None] if images.ndim == 2 + before else images
    if (
        planes.ndim == 3 + before
        and planes.shape[-1] not in (1, 3)
        and planes.shape[before] in (1, 3)
    ):
        planes = np.moveaxis(planes, before, -1)  # channels first
    if planes.ndim != 3 + before or planes.shape[-1] not in (1, 3) or 0 in planes.shape[before:]:
        known = ", ".join(f"({lead}{axes})" for axes in ("H, W", "H, W, 1", "H, W, 3"))
        raise ValueError(f"{name} must have shape {known} or ({lead}C, H, W), got {images.shape}")
    return np.moveaxis(planes, -1, before)


def _file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file's size and of its first and last 4 KB."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        first = handle.read(_EDGE_BYTES)
        handle.seek(max(0, size - _EDGE_BYTES))
        digest = sha256(size.to_bytes(8, "little"), first, handle.read(_EDGE_BYTES))
    return bytes.fromhex(digest)


def has_sixteen_bits(image: Image.Image) -> bool:
    """Say whether an open file is gray with 16 bits a pixel."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def sixteen_bit_depth(files: Sequence[Path]) -> int:
    """Return how many bits the values in 16-bit files take: 8, 10, 12, 14 or 16.

    Cameras and scanners put fewer into such files; scaled as 16 bits their images would be black.

    Args:
        files: All such files of a data set, of which 64 at most are looked at.
    """
    top = 0
    for file in files[:: max(1, len(files) // _MOST_LOOKED_AT)]:
        with contextlib.suppress(OSError), open_image(file) as image:  # damaged: `check` names it
            top = max(top, int(np.asarray(image).max()))
    return next((bits for bits in (8, 10, 12, 14) if top < 2**bits), 16)


def _eight_bits(image: Image.Image, depth: int) -> Image.Image:
    """Return the image with at most 8 bits a channel; Pillow would cut larger values off at 255.

    Raises:
        ValueError: If its values have no known range: 32 bits, or floating point; or if they have
            more than ``depth`` bits.
    """
    if has_sixteen_bits(image):
        from PIL import Image as Pillow

        values = np.asarray(image)
        if int(values.max()) >= 2**depth:
            raise ValueError(
                f"values up to {values.max()}, where other 16-bit files hold {depth} bits; "
                "convert all to 8 bits"
            )
        return Pillow.fromarray((values >> (depth - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r}, 32 bits a pixel; convert it to 8 or 16 bits")
    return image


def open_image(path: str | Path) -> Image.Image:
    """Open an image file, of the kinds that are read, whatever its name says it is.

    Raises:
        OSError: If it is none of them. (Pillow would start a program for some of the others.)
        ValueError: If it declares more pixels than a photograph has: a few bytes can.
    """
    from PIL import Image as Pillow

    image = Pillow.open(path, formats=_FORMATS)
    pixels = image.width * image.height
    if pixels > _MOST_PIXELS:
        image.close()
        raise ValueError(f"{pixels / 1e6:,.0f} million pixels, at most {_MOST_PIXELS // 10**6}")
    return image
