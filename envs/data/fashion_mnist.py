"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747) from whichever place answers first.

The cache, the system's data-set folder, torchvision's download, the Debian package. The four files
are checked decoded, by SHA-256, so every place is held to the same bytes.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gstds.common.files import cache_root, locked, sha256, write_bytes
from gstds.envs.data.downloads import quick_downloads, require_answer
from gstds.reference.vision import import_torchvision

__all__ = [
    "CLASS_NAMES",
    "SIZES",
    "Files",
    "decompress",
    "fetch_fashion",
    "mirror",
    "probe_fashion",
    "read_fashion",
]

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
SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
_HEADERS = {"images": 16, "labels": 8}
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder that keeps the decoded files."""
    return cache_root() / "data" / "fashion-mnist"


def read_fashion() -> dict[str, NDArray[np.uint8]]:
    """Return the four arrays by file name: images (n, 28, 28) and labels (n,).

    Raises:
        FileNotFoundError: If no place has the data; the message says what each answered.
    """
    return {name: _array(name, content) for name, content in _find()[0].items()}


def fetch_fashion() -> Path:
    """Make sure that the data are on this machine, and return their folder.

    Raises:
        FileNotFoundError: If no place has the data; the message says what each answered.
    """
    return _find()[1]


def probe_fashion() -> str:
    """Say where the data would come from, without downloading anything."""
    if all((cache_folder() / name).is_file() for name in DIGESTS):
        return "ready"
    if all((SYSTEM_FOLDER / f"{name}.gz").is_file() for name in DIGESTS):
        return "ready (the system's data-set folder)"
    try:
        require_answer(mirror())
    except OSError:
        return _probe_package()
    return "can be downloaded"


def _find() -> tuple[Files, Path]:
    failures: list[str] = []
    here = cache_folder()
    files = _attempt("the cache", lambda: _read_plain(here), failures)
    if files is not None:
        return files, here
    files = _attempt("the system's folder", lambda: _read_compressed(SYSTEM_FOLDER), failures)
    if files is not None:
        return files, SYSTEM_FOLDER
    return _fetch(here, failures), here


def _fetch(here: Path, failures: list[str]) -> Files:
    with locked(here / ".lock"):
        # Another process may have fetched it while this one waited.
        files = _attempt("", lambda: _read_plain(here), [])
        if files is not None:
            return files
        ways = {
            "torchvision's download": _download,
            f"the Debian package {PACKAGE}": _unpack_package,
        }
        for name, way in ways.items():
            files = _attempt(name, way, failures)
            if files is not None:
                for file, content in files.items():
                    write_bytes(here / file, bytes(content))
                return files
    raise FileNotFoundError(
        "Fashion-MNIST was not found. Tried:\n  - "
        + "\n  - ".join(failures)
        + f"\nAny of these helps: `apt install {PACKAGE}`; a connection for torchvision's "
        f"download; the four files {', '.join(DIGESTS)}, decompressed, in {here}"
    )


def _attempt(name: str, way: Callable[[], Files], failures: list[str]) -> Files | None:
    try:
        return way()
    except _DamagedError as error:
        _log.warning("%s: trying the next place", error)
        failures.append(f"{name}: {error}")
    except OSError as error:
        failures.append(f"{name}: {error}")
    return None


class _DamagedError(OSError):
    """A file is there, but not with the bytes that it should have."""


def _checked(path: Path, name: str, content: bytearray) -> bytearray:
    if sha256(content) != DIGESTS[name]:
        raise _DamagedError(f"{path} is damaged (its SHA-256 is not the published data's)")
    return content


def _require(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}")


def _read_plain(folder: Path) -> Files:
    _require(folder, list(DIGESTS))
    return {
        name: _checked(folder / name, name, _read_whole(folder / name, SIZES[name]))
        for name in DIGESTS
    }


def _read_whole(path: Path, size: int) -> bytearray:
    with path.open("rb") as handle:
        return bytearray(handle.read(size + 1))


def _read_compressed(folder: Path) -> Files:
    _require(folder, [f"{name}.gz" for name in DIGESTS])
    return {name: decompress(folder / f"{name}.gz", name) for name in DIGESTS}


def decompress(path: Path, name: str) -> bytearray:
    """Return what a compressed file holds.

    Args:
        path: The file.
        name: Which of the four it stands for.

    Raises:
        OSError: If it is damaged, or another file; one that unpacks to more is not unpacked whole.
    """
    try:
        with gzip.open(path, "rb") as stream:
            # One byte more than there should be: what is larger is not unpacked to its end.
            content = bytearray(stream.read(SIZES[name] + 1))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _DamagedError(f"{path} is damaged ({error})") from error
    return _checked(path, name, content)


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
        return _read_plain(Path(folder) / "FashionMNIST" / "raw")


def _unpack_package() -> Files:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"there is no {program} here")
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        try:
            _apt(["download", PACKAGE], folder)
        except OSError:
            # The lists may be missing; only root may fetch them.
            if os.geteuid() != 0:
                raise
            _apt(["update"], folder)
            _apt(["download", PACKAGE], folder)
        archive = next(Path(folder).glob("*.deb"))
        _command(["dpkg-deb", "-x", str(archive), folder], folder)
        return _read_compressed(Path(folder) / SYSTEM_FOLDER.relative_to("/"))


def _apt(arguments: list[str], folder: str) -> None:
    options = ["-q", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1"]
    _command(["apt-get", *options, *arguments], folder)


def _command(command: list[str], folder: str) -> None:
    try:
        subprocess.run(  # noqa: S603 - fixed programs and arguments
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{command[0]} did not end within {error.timeout:g} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        raise OSError(f"{command[0]} failed: {' '.join(last) or error.returncode}") from error


def _probe_package() -> str:
    if shutil.which("apt-cache") is None or shutil.which("dpkg-deb") is None:
        return f"out of reach (no connection; `apt install {PACKAGE}` elsewhere)"
    try:
        _command(["apt-cache", "show", PACKAGE], "/")
    except OSError:
        return "out of reach (no connection, and the package lists do not know it)"
    return f"can be had from the Debian package {PACKAGE}"


def _array(name: str, content: bytearray) -> NDArray[np.uint8]:
    kind = "images" if "images" in name else "labels"
    flat = np.frombuffer(content, dtype=np.uint8, offset=_HEADERS[kind])
    return flat.reshape(-1, 28, 28) if kind == "images" else flat
