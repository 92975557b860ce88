"""Downloads that fail soon, and that two processes do not do at once."""

from __future__ import annotations

import contextlib
import queue
import socket
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

_ANSWER_SECONDS = 4.0
_STALL_SECONDS = 20.0


def require_answer(url: str) -> None:
    """Return if the server of ``url`` answers within four seconds.

    Raises:
        OSError: If it does not, or cannot be found.
    """
    answers: queue.Queue[str] = queue.Queue()
    # Looking up a name can outlast every time-out of a socket, so a thread does it.
    threading.Thread(target=lambda: answers.put(_ask(url)), daemon=True).start()
    try:
        problem = answers.get(timeout=_ANSWER_SECONDS + 1.0)
    except queue.Empty:
        problem = "no answer"
    if problem:
        raise ConnectionError(f"{url} cannot be reached ({problem})")


def _ask(url: str) -> str:
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - torchvision's addresses
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS):  # noqa: S310
            return ""
    except urllib.error.HTTPError as error:
        # A server that refuses this page is there; a gateway that cannot reach it is not.
        return "" if error.code < 500 and error.code != 407 else f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__


@contextlib.contextmanager
def quick_downloads() -> Iterator[None]:
    """Let a stalled download fail after 20 seconds, where the downloader sets no time-out.

    Meanwhile an archive is unpacked into its own folder or not at all: a path with ``..``, or a
    link that leads out of it, is a ValueError.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_SECONDS)
    unpack = getattr(tarfile.TarFile, "extraction_filter", None)
    if hasattr(tarfile, "data_filter"):
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
        tarfile.TarFile.extraction_filter = unpack
