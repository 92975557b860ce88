"""The uploader: one process for a store, which carries the logs of its runs to MLflow.

A run asks for it and goes on; the process outlives the command, has the lowest priority, and ends
when nothing is left to deliver. What waits for it stands in a folder beside the store, an entry for
a run, with its lock and what it had to say (``log.txt``). While the store does not answer, the
entries stay: the next run, or ``gstds sync``, delivers them too. ``GSTDS_UPLOADER=0`` starts none,
for machines where no process may stay behind: `sync` is then the way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gstds.common.checksummed_json import read_sealed, write_sealed
from gstds.common.files import cache_root, is_locked, locked, sha256
from gstds.train.tracking.delivery import Delivery, note_target, read_target
from gstds.train.tracking.log import LOG_NAME, read_log
from gstds.train.tracking.store import (
    mask_secrets,
    probe_store,
    sqlite_path,
    store_exists,
    tracking_uri,
)

__all__ = ["Upload", "Uploader", "deliver_waiting", "sync", "undelivered"]

_log = logging.getLogger(__name__)

_OFF, _URI = "GSTDS_UPLOADER", "GSTDS_UPLOADER_URI"
_ASKED = "sync-"  # begins the entries of those who wait
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_WITHOUT_NEWS = 600.0
_SECONDS_BETWEEN_REQUESTS = 30.0
_LONGEST_PAUSE = 30.0
_started: list[subprocess.Popen[bytes]] = []  # one that is forgotten warns of itself


def _place(uri: str) -> Path:
    path = sqlite_path(uri)
    if path is not None:
        return path.with_name(f".{path.name}.uploads")
    return cache_root() / "uploads" / sha256(uri)[:16]


class Upload:
    """One run's request to be delivered.

    Args:
        uri: The store.
        experiment: Its experiment.
        elsewhere: Only note where the run is to be delivered: another machine sees to it.
    """

    def __init__(
        self, uri: str | None = None, experiment: str = "gstds", *, elsewhere: bool = False
    ) -> None:
        self.uri, self.experiment = tracking_uri(uri), experiment
        self._elsewhere = elsewhere
        self._last = 0.0
        self._entry: Path | None = None
        self._told = False

    def address(self) -> dict[str, str | None]:
        """Return the store's URI, None if it holds a secret, and the experiment's name."""
        known = mask_secrets(self.uri) == self.uri
        return {"uri": self.uri if known else None, "experiment": self.experiment}

    def begin(self, folder: Path, run_id: str | None) -> None:
        """Ask that a folder's log be delivered from now on. Never raises."""
        if run_id is None:
            return
        try:
            note_target(folder, self.uri, self.experiment, run_id)
            if self._elsewhere:
                return
            self._entry = _place(self.uri) / f"{run_id}.json"
            entry = {"folder": str(folder.absolute()), "pid": os.getpid()}
            write_sealed(self._entry, entry | {"experiment": self.experiment})
        except OSError as error:
            self._warn(error)
        self.remind()

    def follow(self, folder: Path) -> None:
        """Ask for a run that another machine does, once it has begun. Never raises."""
        target = read_target(folder)
        if target is not None:
            self.begin(folder, target.run_id)

    def remind(self, *, at_once: bool = True) -> None:
        """See to it that somebody delivers. Never raises.

        Args:
            at_once: Also if that was seen to a moment ago.
        """
        if self._entry is None or os.environ.get(_OFF) == "0":
            return
        if at_once or time.monotonic() - self._last > _SECONDS_BETWEEN_REQUESTS:
            self._last = time.monotonic()
            try:
                _start(self.uri)
            except OSError as error:
                self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            _log.warning("nobody delivers to MLflow (%s); gstds sync does afterwards", error)


def _start(uri: str) -> None:
    """Start an uploader, unless there is one."""
    place = _place(uri)
    if is_locked(place / "lock"):
        return
    with (place / "log.txt").open("ab") as output:
        _started.append(
            subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=place,
                env=os.environ | {_URI: uri},  # not among the words: it may hold a secret
                start_new_session=True,
            )
        )
    _started[:] = [process for process in _started if process.poll() is None]


class Uploader:
    """Delivers everything that waits for a store; see the module.

    Args:
        uri: The store.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.place = _place(uri)
        self._open: dict[Path, Delivery] = {}
        self._told: set[str] = set()

    def work(self) -> set[Path]:
        """Deliver until nothing is left, or there was no news for ten minutes.

        Returns:
            The entries that are left.
        """
        pause, news = _SECONDS_BETWEEN_LOOKS, time.monotonic()
        while True:
            left, moved, failed = self.look()
            if moved:
                news = time.monotonic()
            if not left or time.monotonic() - news > _SECONDS_WITHOUT_NEWS:
                return left
            pause = min(2 * pause, _LONGEST_PAUSE) if failed else _SECONDS_BETWEEN_LOOKS
            time.sleep(pause)

    def look(self) -> tuple[set[Path], bool, bool]:
        """Deliver once what waits.

        Returns:
            The entries that are left, whether anything was delivered, and whether the store failed.
        """
        left, moved, failed = set[Path](), False, False
        for path in sorted(self.place.glob("*.json")):
            try:
                entry = read_sealed(path)
                done, news = self._deliver(Path(entry["folder"]), entry)
            except (ValueError, KeyError, TypeError) as error:  # no entry, or no log to deliver
                self._tell(path, error)
                done, news = True, False
            except Exception as error:  # whatever MLflow raises: the store does not answer
                self._tell(path, error)
                done, news, failed = False, False, True
            if done or path.name.startswith(_ASKED):  # who asked waits for one look, not for days
                path.unlink(missing_ok=True)
            else:
                left.add(path)
            moved = moved or news
        return left, moved, failed

    def _deliver(self, folder: Path, entry: dict[str, Any]) -> tuple[bool, bool]:
        """Deliver what a folder's log holds; return whether that was all, and whether it was any.

        A run is over when it says so, or when its process is gone.
        """
        going_on = _is_alive(int(entry["pid"]))
        log = folder / LOG_NAME
        if not log.exists():
            return not going_on, False
        delivery = self._open.get(folder)
        if delivery is None or delivery.is_of_another_log():
            probe_store(self.uri)
            delivery = self._open[folder] = Delivery(folder, self.uri, entry["experiment"])
        before = delivery.target.offset
        try:
            delivery.deliver()
        except Exception:
            del self._open[folder]  # with a new look at what the store has
            raise
        done = delivery.ended or not going_on
        if done:
            del self._open[folder]
        return done, delivery.target.offset > before

    def _tell(self, path: Path, error: Exception) -> None:
        text = mask_secrets(f"{path.stem}: {str(error) or type(error).__name__}").splitlines()[0]
        if text not in self._told:
            self._told.add(text)
            _log.warning("%s", text[:500])


def _is_alive(pid: int) -> bool:
    if pid <= 0 or os.name == "nt":  # there, asking would end it
        return pid > 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def undelivered(place: Path) -> list[Path]:
    """Return the folders in ``place`` whose log was not delivered to its end."""
    folders = [log.parent for log in sorted(place.rglob(LOG_NAME))]
    return [folder for folder in folders if _waits(folder)]


def _waits(folder: Path) -> bool:
    target = read_target(folder)
    return target is None or target.offset < (folder / LOG_NAME).stat().st_size


def sync(place: str | Path, uri: str | None = None) -> dict[str, int]:
    """Deliver the logs of runs to their MLflow store, in order and nothing twice.

    Args:
        place: A folder that is searched for runs.
        uri: The store of all; None for the one that each run notes, else as for `tracking_uri`.

    Returns:
        How many points each folder delivered. Runs that are still going on are left out: they are
        delivered as they go on.

    Raises:
        FileNotFoundError: If ``place`` does not exist.
        ConnectionError: If the store does not answer, or stops answering; what was delivered until
            then is noted and not sent again.
        ValueError: If a log is damaged, or its run was deleted in the store.
    """
    folder = Path(place)
    if not folder.exists():
        raise FileNotFoundError(f"no runs at {folder}; give the folder of a run, or of several")
    _refuse_older(folder)
    counts: dict[str, int] = {}
    for one in undelivered(folder):
        noted = _noted(one, "uri")
        if uri or noted or read_target(one):
            address = tracking_uri(uri or noted)
            _check_store(one, address, noted)
            count = _sync_one(one, address)
            counts |= {} if count is None else {str(one): count}
    return counts


def _check_store(folder: Path, address: str, noted: str | None) -> None:
    """Refuse to make a store that the folder's run was not started with, or was in already."""
    probe_store(address)
    target = read_target(folder)
    known = target is not None and target.mlflow_run_id is not None
    if not store_exists(address) and (known or noted != address):
        raise ConnectionError(
            f"there is no MLflow store {address}; name the runs' store by --tracking-uri"
        )


def deliver_waiting(uri: str) -> None:
    """Deliver the runs that have ended and wait for a store; warn of those that cannot be."""
    for path in sorted(_place(uri).glob("*.json")):
        try:
            entry = read_sealed(path)
            folder = Path(entry["folder"])
            if _is_alive(int(entry["pid"])) and not _has_ended(folder):
                continue
            _sync_one(folder, uri)
        except ConnectionError as error:
            _log.warning("%s", mask_secrets(str(error)))
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s", mask_secrets(str(error)))
        path.unlink(missing_ok=True)


def _sync_one(folder: Path, uri: str) -> int | None:
    """Deliver a folder's log here, or wait for the uploader that is at work.

    Returns:
        How many points were delivered; None if the run is still going on.
    """
    if is_locked(folder / "run.lock"):
        return None
    before = _waiting_points(folder)
    place = _place(uri)
    try:
        with locked(place / "lock", wait=0):
            Delivery(folder, uri, _noted(folder, "experiment") or "gstds").deliver()
    except BlockingIOError:
        _hand_over(folder, uri)
    except (ConnectionError, ValueError):
        raise
    except Exception as error:  # whatever MLflow raises
        reason = mask_secrets(str(error) or type(error).__name__).splitlines()[0][:300]
        raise ConnectionError(
            f"{folder} could not be delivered to {mask_secrets(uri)}: {reason}; "
            f"the rest stays in {folder / LOG_NAME}"
        ) from error
    return before - _waiting_points(folder)


def _hand_over(folder: Path, uri: str) -> None:
    """Ask the uploader that holds the lock, and wait until it has looked."""
    entry = _place(uri) / f"{_ASKED}{sha256(str(folder.absolute()))}.json"
    experiment = _noted(folder, "experiment") or "gstds"
    write_sealed(entry, {"folder": str(folder.absolute()), "pid": 0, "experiment": experiment})
    while entry.exists() and is_locked(entry.parent / "lock"):
        time.sleep(_SECONDS_BETWEEN_LOOKS / 5)
    if entry.exists():
        entry.unlink(missing_ok=True)
        Delivery(folder, uri, experiment).deliver()
    elif _waits(folder):
        raise ConnectionError(
            f"{folder} could not be delivered to {mask_secrets(uri)}; {entry.parent / 'log.txt'} "
            "says why"
        )


def _has_ended(folder: Path) -> bool:
    kind = None
    with contextlib.suppress(OSError, ValueError):
        for line, _ in read_log(folder / LOG_NAME):
            kind = line["kind"]
    return kind == "end"


def _waiting_points(folder: Path) -> int:
    target = read_target(folder)
    lines = read_log(folder / LOG_NAME, target.offset if target else 0)
    return sum(len(line["values"]) for line, _ in lines if line["kind"] == "metrics")


def _noted(folder: Path, name: str) -> str | None:
    """Return what a folder notes of its store: ``uri`` or ``experiment``; None if nothing."""
    target = read_target(folder)
    if target is not None:
        return str(getattr(target, name) or "") or None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(read_sealed(folder / "config.json")["tracking"][name] or "") or None
    return None


def _refuse_older(place: Path) -> None:
    for old in place.rglob("spool/*.jsonl"):
        raise ValueError(
            f"{old} is what release 0.1 could not deliver; deliver it with that release: "
            "pip install 'gstds<0.2'"
        )


def main() -> None:
    """Deliver what waits for the store that the environment names: what the process does."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(19)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    uri = os.environ.pop(_URI)
    place, left, first = _place(uri), set[Path](), True
    # Who asked behind the last look saw the lock held: what came meanwhile is ours.
    while first or set(place.glob("*.json")) - left:
        first = False
        try:
            with locked(place / "lock", wait=2):
                left = Uploader(uri).work()
        except (BlockingIOError, KeyboardInterrupt):
            return


if __name__ == "__main__":
    main()
