"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747) from whichever place answers first.

The cache, the system's data-set folder, torchvision's download, the Debian package. The four files
are checked decoded, by SHA-256, so every place is held to the same bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gstds.common.files import cache_root, locked, sha256, write_bytes
from gstds.envs.data.downloads import quick_downloads, require_answer
from gstds.reference.vision import import_torchvision

Files = dict[str, bytearray]

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
SIZES = dict(zip(DIGESTS, (47_040_016, 60_008, 7_840_016, 10_008), strict=True))
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder that keeps the decoded files."""
    return cache_root() / "data" / "fashion-mnist"


def read_fashion() -> dict[str, NDArray[np.uint8]]:
    """Return the four arrays by file name: images (n, 28, 28) and labels (n,).

    Raises:
        FileNotFoundError: If no place has the data; the message says what each answered.
    """
    return {name: _array(name, content) for name, content in _find().items()}


def fetch_fashion() -> Path:
    """Make sure that the data are on this machine, and return their folder.

    Raises:
        FileNotFoundError: If no place has the data; the message says what each answered.
    """
    _find()
    return SYSTEM_FOLDER if _missing(cache_folder(), "") else cache_folder()


def probe_fashion() -> str:
    """Say where the data would come from, without downloading anything; what is there is read."""
    with contextlib.suppress(OSError):
        _read_folder(cache_folder(), "")
        return "ready"
    with contextlib.suppress(OSError):
        _read_folder(SYSTEM_FOLDER, ".gz")
        return "ready (the system's data-set folder)"
    with contextlib.suppress(OSError):
        require_answer(mirror())
        return "can be downloaded"
    if shutil.which("apt-cache") is None or shutil.which("dpkg-deb") is None:
        return f"out of reach (no connection; `apt install {PACKAGE}` elsewhere)"
    with contextlib.suppress(OSError):
        _command("/", "apt-cache", "show", PACKAGE)
        return f"can be had from the Debian package {PACKAGE}"
    return "out of reach (no connection, and the package lists do not know it)"


def advice() -> str:
    """Say what to do where no place has the data."""
    return (
        f"any of these helps: `apt install {PACKAGE}`; a connection for torchvision's download; "
        f"the four files {', '.join(DIGESTS)}, decompressed, in {cache_folder()}"
    )


def _find() -> Files:
    failures: list[str] = []
    here = cache_folder()
    near = {"the cache": partial(_read_folder, here, "")}
    near["the system's folder"] = partial(_read_folder, SYSTEM_FOLDER, ".gz")
    far = {"torchvision's download": _download, f"the Debian package {PACKAGE}": _unpack_package}
    if files := _first(near, failures):
        return files
    with locked(here / ".lock"):
        with contextlib.suppress(OSError):  # another process may have brought them meanwhile
            return _read_folder(here, "")
        if files := _first(far, failures):
            for file, content in files.items():
                write_bytes(here / file, bytes(content))
            return files
    raise FileNotFoundError(
        "Fashion-MNIST was not found. Tried:\n  - " + "\n  - ".join(failures) + f"\n{advice()}"
    )


def _first(ways: Mapping[str, Callable[[], Files]], failures: list[str]) -> Files | None:
    """Return the files from the first place that has them; note why the others have not."""
    for name, way in ways.items():
        try:
            return way()
        except OSError as error:
            if isinstance(error, _DamagedError):
                _log.warning("%s: trying the next place", error)
            failures.append(f"{name}: {error}")
    return None


class _DamagedError(OSError):
    """A file is there, but not with the bytes that it should have."""


def _missing(folder: Path, suffix: str) -> list[str]:
    return [f"{name}{suffix}" for name in DIGESTS if not (folder / f"{name}{suffix}").is_file()]


def _read_folder(folder: Path, suffix: str) -> Files:
    missing = _missing(folder, suffix)
    if missing:
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}")
    return {name: decompress(folder / f"{name}{suffix}", name) for name in DIGESTS}


def decompress(path: Path, name: str) -> bytearray:
    """Return what a file holds, compressed if its name ends in ``.gz``.

    Args:
        path: The file.
        name: Which of the four it stands for.

    Raises:
        OSError: If it is damaged, or another file; one that unpacks to more is not unpacked whole.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as stream:
            # One byte more than there should be: what is larger is not unpacked to its end.
            content = bytearray(stream.read(SIZES[name] + 1))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _DamagedError(f"{path} is damaged ({error})") from error
    if sha256(content) != DIGESTS[name]:
        raise _DamagedError(f"{path} is damaged (its SHA-256 is not the published data's)")
    return content


def mirror() -> str:
    """Return the address that torchvision downloads from."""
    return str(import_torchvision().datasets.FashionMNIST.mirrors[0])


def _download() -> Files:
    require_answer(mirror())
    data_sets = import_torchvision().datasets
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder, quick_downloads():
        try:
            data_sets.FashionMNIST(folder, download=True)
        except RuntimeError as error:
            raise OSError(str(error).strip()) from error
        return _read_folder(Path(folder) / "FashionMNIST" / "raw", "")


def _unpack_package() -> Files:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"there is no {program} here")
    apt = ("apt-get", "-q", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1")
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        try:
            _command(folder, *apt, "download", PACKAGE)
        except OSError:
            # The lists may be missing; only root may fetch them.
            if os.geteuid() != 0:
                raise
            _command(folder, *apt, "update")
            _command(folder, *apt, "download", PACKAGE)
        archive = next(Path(folder).glob("*.deb"))
        _command(folder, "dpkg-deb", "-x", str(archive), folder)
        return _read_folder(Path(folder) / SYSTEM_FOLDER.relative_to("/"), ".gz")


def _command(folder: str, *command: str) -> None:
    try:
        subprocess.run(  # noqa: S603 - fixed programs and arguments
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=300
        )
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", None) or getattr(error, "stdout", None) or error)
        raise OSError(f"{command[0]} failed: {said.strip().splitlines()[-1]}") from error


def _array(name: str, content: bytearray) -> NDArray[np.uint8]:
    if "images" in name:
        return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(-1, 28, 28)
    return np.frombuffer(content, dtype=np.uint8, offset=8)
