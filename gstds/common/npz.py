"""Reading ``.npz`` files that others wrote: no pickle, and nothing larger than it says it is."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_READ_HEADER = np.lib.format.read_array_header_2_0
_LONGEST_END = 22 + 2**16
_CGROUP = Path("/sys/fs/cgroup/memory.max")


class NpzError(ValueError):
    """A file is no ``.npz`` of plain arrays, or is damaged, or too large for this machine."""


def memory_bytes() -> int:
    """Return the memory of this machine, or of its container, in bytes."""
    limits = [2**62]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(_CGROUP.read_text()))
    return min(limit for limit in limits if limit > 0)


def check_declared_size(path: str | Path) -> None:
    """Refuse a zip file, such as a checkpoint of torch's, that unpacks to more than the memory.

    Raises:
        ValueError: If it does; a file that is no zip passes.
    """
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        _check_size(archive.infolist())


def _check_size(members: Iterable[zipfile.ZipInfo]) -> None:
    declared, limit = sum(info.file_size for info in members), memory_bytes()
    if declared > limit:
        raise NpzError(
            f"it declares {declared / 1e9:,.1f} GB of content, more than the "
            f"{limit / 1e9:,.1f} GB of memory here"
        )


def read_arrays(path: str | Path, keys: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """Read the named arrays of an ``.npz`` file; one that is not there is left out.

    Sizes are added up before anything is unpacked, so that a file of a few kilobytes that unpacks
    to more than the memory is refused by what it declares. No more is unpacked than declared.

    Args:
        path: The file.
        keys: The arrays wanted.

    Raises:
        OSError: If the file cannot be read.
        NpzError: If it is damaged, too large, or an array of it holds Python objects.
    """
    with _opened(path) as archive:
        members = _members(archive)
        for info in members.values():
            # Opening compares the two names that a zip has of each member: a name with a flipped
            # bit would otherwise be one that nobody asked for.
            archive.open(info).close()
        wanted = {key: info for key, info in members.items() if key in keys}
        _check_size(wanted.values())
        return {key: _array(archive, key, info) for key, info in wanted.items()}


def array_names(path: str | Path) -> list[str]:
    """Return the names of the arrays of an ``.npz`` file, sorted; errors as for `read_arrays`."""
    with _opened(path) as archive:
        return sorted(_members(archive))


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Open the file; whatever is wrong with it in the body is raised with its name."""
    with open(path, "rb") as handle:
        try:
            with zipfile.ZipFile(handle) as archive:
                _check_count(handle, len(archive.infolist()))
                yield archive
        except NpzError as error:
            raise NpzError(f"{path}: {error}") from error.__cause__
        # What noise in a zip or in an array's header raises is any of a dozen kinds.
        except Exception as error:
            raise NpzError(f"{path}: damaged file ({error or type(error).__name__})") from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise NpzError("damaged file (an array stands there twice)")
    return members


def _check_count(handle: IO[bytes], found: int) -> None:
    """Refuse a zip whose directory lists another number of members than its end says.

    Zipfile goes by the directory's length alone: with a bit of it flipped, members are missing.
    """
    handle.seek(max(0, os.fstat(handle.fileno()).st_size - _LONGEST_END))
    end = handle.read()
    at = end.rfind(b"PK\x05\x06")
    said = int.from_bytes(end[at + 10 : at + 12], "little")
    if said not in (found, 0xFFFF):
        raise NpzError(f"damaged file (it lists {found} arrays and says it has {said})")


def _array(archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(info) as member:
        try:
            old = np.lib.format.read_magic(member) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if old else _READ_HEADER
            shape, _, dtype = read(member)
        except ValueError as error:
            raise NpzError(
                f"{key!r} is no array; not an .npz file of plain arrays ({error})"
            ) from None
        size = member.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise NpzError(
            f"array {key!r} holds Python objects, which may be code; not an .npz file of plain "
            "arrays"
        )
    if size != info.file_size:
        raise NpzError(
            f"damaged file (array {key!r} of shape {shape} should have {size} bytes, "
            f"it has {info.file_size})"
        )
    with archive.open(info) as member:
        values: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        member.read(1)  # the checksum is compared at the very end
    return values
