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
from gstds.common.files import is_locked, locked
from gstds.train.tracking import store
from gstds.train.tracking.delivery import Delivery, find_run, note_target, read_target
from gstds.train.tracking.log import LOG_NAME, ask_for_model, has_ended
from gstds.train.tracking.logged_model import logged_models

_log = logging.getLogger(__name__)

_OFF, _URI = "GSTDS_UPLOADER", "GSTDS_UPLOADER_URI"
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_WITHOUT_NEWS = 600.0
_SECONDS_BETWEEN_REQUESTS = 30.0
_LONGEST_PAUSE = 30.0
_NOBODY = "nobody delivers to MLflow ({}); gstds sync does afterwards"
_started: list[subprocess.Popen[bytes]] = []  # one that is forgotten warns of itself


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
        self.uri, self.experiment = store.tracking_uri(uri), experiment
        self._elsewhere, self._asked, self._last = elsewhere, False, 0.0
        self._warn = store.warner(_log)

    def address(self) -> dict[str, str | None]:
        """Return the store's URI, None if it holds a secret, and the experiment's name."""
        known = store.mask_secrets(self.uri) == self.uri
        return {"uri": self.uri if known else None, "experiment": self.experiment}

    def begin(self, folder: Path, run_id: str | None) -> None:
        """Ask that a folder's log be delivered from now on. Never raises."""
        if run_id is None:
            return
        try:
            note_target(folder, self.uri, self.experiment, run_id)
            if not self._elsewhere:
                self._asked = True
                entry = {"folder": str(folder.absolute()), "pid": os.getpid()}
                write_sealed(store.uploads_folder(self.uri) / f"{run_id}.json", entry)
        except OSError as error:
            self._warn(_NOBODY.format(error))
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
        pause = 0.0 if at_once else _SECONDS_BETWEEN_REQUESTS
        recent = time.monotonic() - self._last < pause
        if recent or not self._asked or os.environ.get(_OFF) == "0":
            return
        self._last = time.monotonic()
        place = store.uploads_folder(self.uri)
        command = [sys.executable, "-P", "-m", __name__]
        environment = os.environ | {_URI: self.uri}  # not among the words: it may hold a secret
        aside: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        try:
            if is_locked(place / "lock"):
                return
            with (place / "log.txt").open("ab") as said:
                _started.append(
                    subprocess.Popen(
                        command, env=environment, cwd=place, stdout=said, stderr=said, **aside
                    )
                )
        except OSError as error:
            self._warn(_NOBODY.format(error))
        _started[:] = [process for process in _started if process.poll() is None]


class Uploader:
    """Delivers everything that waits for a store; see the module.

    Args:
        uri: The store.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self._warn = uri, store.warner(_log)

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

    def look(self, *, going_on: bool = True) -> tuple[set[Path], bool, bool]:
        """Deliver once what waits.

        Args:
            going_on: Also of runs that have not ended yet.

        Returns:
            The entries that are left, whether anything was delivered, and whether the store failed.
        """
        left, moved, failed = set[Path](), False, False
        for path in sorted(store.uploads_folder(self.uri).glob("*.json")):
            try:
                entry = read_sealed(path)
                over, log = _is_over(entry), Path(entry["folder"]) / LOG_NAME
                size = log.stat().st_size
                if over or going_on:
                    moved |= Delivery(log.parent, self.uri).deliver() > 0
                done = over and _is_over(entry := read_sealed(path))
                if done:
                    path.unlink(missing_ok=True)
                    if log.stat().st_size > size:  # resumed meanwhile, or its network asked for
                        write_sealed(path, entry)
                        done = False
            except (OSError, ValueError, KeyError, TypeError) as error:
                done = not isinstance(error, OSError) or isinstance(error, FileNotFoundError)
                failed |= not done  # else it is no entry, or has no log to deliver
                if path.exists():  # else `gstds ui` was quicker
                    self._warn(f"{path.stem}: {store.reason_of(error)}")
                if done:
                    path.unlink(missing_ok=True)
            if not done:
                left.add(path)
        return left, moved, failed


def _is_over(entry: dict[str, Any]) -> bool:
    """Return whether a run says that it has ended, or its process is gone."""
    pid = int(entry["pid"])
    alive = pid > 0
    if alive and os.name != "nt":  # there, asking would end it
        try:
            os.kill(pid, 0)
        except (OSError, OverflowError) as error:
            alive = isinstance(error, PermissionError)
    return not alive or has_ended(Path(entry["folder"]) / LOG_NAME)


def undelivered(place: Path) -> list[Path]:
    """Return the folders in ``place`` whose log was not delivered to its end."""
    known = [(log, read_target(log.parent)) for log in sorted(place.rglob(LOG_NAME))]
    return [log.parent for log, to in known if to is None or to.offset < log.stat().st_size]


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
    for old in folder.rglob("spool/*.jsonl"):
        raise ValueError(
            f"{old} is what release 0.1 could not deliver; deliver it with that release: "
            "pip install 'gstds<0.2'"
        )
    counts: dict[str, int] = {}
    for one in undelivered(folder):
        noted = read_target(one)
        if (noted is None and uri is None) or is_locked(one / "run.lock"):
            continue
        address = store.tracking_uri(uri or (noted.uri if noted else None))
        new = noted and noted.uri == address and noted.mlflow_run_id is None
        if not store.store_exists(address) and not new:  # it is not made by a typing error
            raise ConnectionError(
                f"there is no MLflow store {address}; name the runs' store by --tracking-uri"
            )
        counts[str(one)] = Delivery(one, address).deliver()
    return counts


def add_network(folder: Path, uri: str | None) -> None:
    """Ask that the network of a run that has finished be delivered too, once. Never raises.

    Args:
        folder: The run's folder; one that nobody delivers is left alone.
        uri: Its store, if that stands in no file.
    """
    noted = read_target(folder)
    try:
        if noted and ask_for_model(folder / LOG_NAME):
            Upload(noted.uri or uri, noted.experiment).follow(folder)
    except (OSError, ValueError) as error:
        _log.warning(_NOBODY.format(error))


def register_network(run: str, name: str, uri: str | None = None) -> str:
    """Put a run's network into the model registry, as its next version; deliver the run first.

    Args:
        run: The run's folder, or its id.
        name: The registered model's name.
        uri: The store; None for the one that the run notes, else as for `tracking_uri`.

    Returns:
        Where the version is: ``models:/NAME/VERSION``.

    Raises:
        ConnectionError: If the store does not answer.
        ValueError: If there is no such run, it has not finished, or MLflow has its weights alone.
    """
    folder = find_run("run", run, uri)
    address = store.tracking_uri(uri or getattr(read_target(folder), "uri", None))
    ask_for_model(folder / LOG_NAME)
    delivery, client = Delivery(folder, address), store.client(address)
    delivery.deliver()
    there = client.get_run(str(delivery.target.mlflow_run_id))
    model = next(iter(logged_models(client, there)), None)
    if model is None:
        why = there.data.tags.get("model", "its run has not finished")
        raise ValueError(f"the network of {folder} is not in MLflow: {why}")
    with contextlib.suppress(Exception):  # it is there; what else is wrong the next call says
        client.create_registered_model(name)
    about: dict[str, Any] = {"model_id": model.model_id, "await_creation_for": None}
    made = client.create_model_version(name, model.artifact_location, there.info.run_id, **about)
    return f"models:/{name}/{made.version}"


def deliver_waiting(uri: str) -> None:
    """Deliver the runs that have ended and wait for a store; warn of those that cannot be."""
    Uploader(uri).look(going_on=False)


def main() -> None:
    """Deliver what waits for the store that the environment names: what the process does."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(19)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    uri = os.environ.pop(_URI)
    place = store.uploads_folder(uri)
    left: set[Path] | None = None
    # Who asked behind the last look saw the lock held: what came meanwhile is ours.
    with contextlib.suppress(BlockingIOError, KeyboardInterrupt):
        while left is None or set(place.glob("*.json")) - left:
            with locked(place / "lock", wait=2):
                left = Uploader(uri).work()


if __name__ == "__main__":
    main()
