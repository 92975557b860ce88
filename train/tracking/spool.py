"""The spool: what could not be delivered yet, on disk, in order.

One file per run, ``RUN_ID.jsonl``, of sealed JSON lines that are only ever appended and synced.
Beside it ``RUN_ID.offset`` holds how many bytes were delivered, and a checksum; it is replaced
atomically after each delivery. A crash between a delivery and that note delivers some points again
with the time stamps they had, which an MLflow database recognizes as the same rows. Infinity never
stands here; NaN is ``null``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from gstds.common.checksummed_json import check_seal, read_sealed, sealed, write_sealed
from gstds.common.files import fsync_directory, write_text
from gstds.train.tracking.run_header import RunRecord
from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.store import (
    file_lock,
    mask_secrets,
    probe_store,
    store_exists,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["Item", "Point", "Spool", "deliver", "sync_spool"]

BATCH = 1000


class Point(NamedTuple):
    """One value of one metric: name, value, Unix time (ms), step."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class Item:
    """One thing to deliver: points, an artifact, or the run's end.

    Attributes:
        points: At most 1,000 points.
        text: Content of a text artifact.
        path: Its path among the artifacts, or the folder for ``file``.
        file: A local file to upload.
        status: MLflow's status of a run that ended.
        end_time: Unix time (ms) of its end.
        tags: Tags to set.
        head: How a run is created that began without its store; see
            `gstds.train.tracking.offline_runs`.
        about: A head whose run is there already, and is only to be described.
    """

    points: tuple[Point, ...] = ()
    text: str | None = None
    path: str = ""
    file: str | None = None
    status: str | None = None
    end_time: int | None = None
    tags: tuple[tuple[str, str], ...] = ()
    head: dict[str, Any] | None = None
    about: dict[str, Any] | None = None

    def is_lost(self) -> bool:
        """Return whether this is a file that does not exist any more."""
        return self.file is not None and not Path(self.file).exists()

    def to_json(self) -> str:
        """Return the item as one line of strict JSON, sealed."""
        fields: dict[str, Any] = {k: v for k, v in self.__dict__.items() if v not in ((), None, "")}
        if self.points:
            fields["points"] = [
                [p.key, None if math.isnan(p.value) else p.value, p.timestamp, p.step]
                for p in self.points
            ]
        return json.dumps(sealed(fields), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Item:
        """Return the item that `to_json` wrote.

        Raises:
            ValueError: If the line is not what was written.
        """
        fields = check_seal(json.loads(line), "a line")
        fields["points"] = tuple(
            Point(key, math.nan if value is None else value, timestamp, step)
            for key, value, timestamp, step in fields.get("points", ())
        )
        fields["tags"] = tuple((k, v) for k, v in fields.get("tags", ()))
        return cls(**fields)


def deliver(client: MlflowClient, run_id: str, item: Item) -> None:
    """Send one item to the store.

    Raises:
        Exception: Whatever MLflow raises if the store does not take it.
    """
    if item.about is not None:
        from gstds.train.tracking.offline_runs import describe

        describe(client, client.get_run(run_id), item.about)
    if item.points or item.tags:
        from mlflow.entities import Metric, RunTag

        metrics, tags = [Metric(*p) for p in item.points], [RunTag(*tag) for tag in item.tags]
        client.log_batch(run_id, metrics=metrics, tags=tags)
    if item.text is not None:
        client.log_text(run_id, item.text, item.path)
    if item.file is not None:
        client.log_artifact(run_id, item.file, item.path or None)
    if item.status is not None:
        client.set_terminated(run_id, item.status, end_time=item.end_time)


class Spool:
    """What one run has not delivered yet.

    Args:
        folder: The spool's folder; made when the first item is written.
        run_id: The MLflow run.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = folder / f"{run_id}.jsonl"
        self._offset_path = folder / f"{run_id}.offset"
        self._files = folder / f"{run_id}.files"
        self._target_path = folder / f"{run_id}.target"
        self.target = run_id
        self._have: dict[str, int] = {}
        self._read_target()

    def __bool__(self) -> bool:
        """Return whether something waits to be delivered."""
        try:
            return self.path.stat().st_size > self._offset()
        except OSError:
            return False

    def append(self, items: list[Item]) -> None:
        """Write items behind what stands there, durably; files are copied beside.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [self._own(item) for item in items if not item.is_lost()]
        with self.path.open("ab") as handle:
            self._cut_torn_line(handle.tell())
            handle.write("".join(item.to_json() + "\n" for item in kept).encode())
            handle.flush()
            os.fsync(handle.fileno())
        fsync_directory(self.path.parent)

    def waiting(self) -> Iterator[tuple[Item, int]]:
        """Yield each waiting item with the offset behind it; a torn last line is left out."""
        return self._lines(self._offset())

    def _lines(self, start: int) -> Iterator[tuple[Item, int]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as handle:
            handle.seek(start)
            for line in handle:
                if line.endswith(b"\n"):
                    yield self._read(line), handle.tell()

    def _read(self, line: bytes) -> Item:
        """Return the item of a line.

        Raises:
            ValueError: If it is none, or would deliver a file that the spool has no copy of.
        """
        try:
            item = Item.from_json(line.decode())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{self.path} is damaged: {error}") from error
        if item.file is None:
            return item
        # The copy is named by its last two parts, so that a run's folder may have been moved.
        number, name = Path(item.file).parts[-2:] if len(Path(item.file).parts) > 1 else ("", "")
        own = self._files / number / name
        if not own.is_file() or own.resolve().parent.parent != self._files.resolve():
            raise ValueError(
                f"{self.path} names {item.file!r}, which is no file of this spool; it was changed, "
                "or its copy was deleted: remove that line"
            )
        return Item(**{**item.__dict__, "file": str(own.absolute())})

    def mark(self, offset: int) -> None:
        """Note that everything before ``offset`` was delivered."""
        write_text(self._offset_path, _checked_number(offset))

    def drain(self, client: MlflowClient, stop: Callable[[], bool] = lambda: False) -> int:
        """Deliver what waits, oldest first, and remove the file when nothing is left.

        Args:
            client: The store's client.
            stop: Asked before each delivery whether to leave the rest.

        Returns:
            How many points were delivered.

        Raises:
            Exception: Whatever MLflow raises; what was delivered before is noted.
        """
        count = 0
        for item, offset in self._merged():
            if stop():
                return count
            self.send(client, item)
            self.mark(offset)
            count += len(item.points)
        if not self:
            self.clear()
        return count

    def send(self, client: MlflowClient, item: Item) -> None:
        """Send one item to the store, to the run that this one became there.

        Raises:
            Exception: Whatever MLflow raises if the store does not take it.
        """
        if item.head is not None:
            self._begin(client, item.head)
            return
        if item.points and self._have:
            new = tuple(p for p in item.points if p.step > self._have.get(p.key, p.step - 1))
            item = Item(**{**item.__dict__, "points": new})
        deliver(client, self.target, item)

    def _begin(self, client: MlflowClient, head: dict[str, Any]) -> None:
        """Create the run, or find it, and note which it is and what it has already."""
        from gstds.train.tracking.offline_runs import create_or_find

        run = create_or_find(client, self.run_id, head)
        self.target = str(run.info.run_id)
        if head["resume"]:
            self._have = RunRecord(client, str(client.tracking_uri)).last_steps(run)
        note = {"run_id": self.target, "have": self._have}
        write_sealed(self._target_path, note)

    def _read_target(self) -> None:
        """Take over what the head's delivery noted; if that is damaged, all is delivered again."""
        if not self._target_path.exists():
            return
        try:
            note = read_sealed(self._target_path)
            have = {str(key): int(step) for key, step in note["have"].items()}
            self.target, self._have = str(note["run_id"]), have
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._offset_path.unlink(missing_ok=True)

    def has_head(self) -> bool:
        """Return whether the store gets to know this run by what stands here."""
        with contextlib.suppress(StopIteration):
            return next(self._lines(0))[0].head is not None
        return False

    def clear(self) -> None:
        """Remove the spool of this run."""
        for path in (self.path, self._offset_path, self._target_path):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._files, ignore_errors=True)

    def last_steps(self) -> dict[str, int]:
        """Return the last waiting step of each metric."""
        last: dict[str, int] = {}
        for item, _ in self.waiting():
            for point in item.points:
                last[point.key] = max(point.step, last.get(point.key, point.step))
        return last

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the spool for this process.

        Raises:
            BlockingIOError: If another process holds it: its run is still going on.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        path = self.path.with_suffix(".lock")
        with path.open("ab") as handle, file_lock(handle, wait=False):
            if not _same_file(path, handle):
                raise BlockingIOError(f"{path} was just given up by another process")
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it stays if something waits in it
                    path.parent.rmdir()

    def _merged(self) -> Iterator[tuple[Item, int]]:
        """Yield waiting items with neighboring points joined to batches of up to 1,000."""
        points: list[Point] = []
        end = 0
        for item, offset in self.waiting():
            plain = item == Item(points=item.points)
            if points and (not plain or len(points) + len(item.points) > BATCH):
                yield Item(points=tuple(points)), end
                points = []
            if plain:
                points.extend(item.points)
                end = offset
            else:
                yield item, offset
        if points:
            yield Item(points=tuple(points)), end

    def _offset(self) -> int:
        """Return the noted offset; 0, whence all is sent again and recognized, if it is damaged."""
        with contextlib.suppress(OSError, ValueError):
            text = self._offset_path.read_text()
            number = int(text.partition(" ")[0])
            if text == _checked_number(number):
                return number
        return 0

    def _own(self, item: Item) -> Item:
        """Copy an item's file into the spool: its folder may be gone at delivery."""
        if item.file is None or self._files in Path(item.file).parents:
            return item
        source = Path(item.file)
        folder = self._files / str(len(list(self._files.glob("*"))))
        folder.mkdir(parents=True)
        shutil.copy2(source, folder / source.name)
        return Item(**{**item.__dict__, "file": str((folder / source.name).absolute())})

    def _cut_torn_line(self, size: int) -> None:
        """Remove the half line that a crash in the middle of an append left behind."""
        if size == 0:
            return
        with self.path.open("rb+") as handle:
            handle.seek(size - 1)
            if handle.read(1) != b"\n":
                handle.seek(0)
                handle.truncate(handle.read().rfind(b"\n") + 1)


def sync_spool(path: str | Path, uri: str | None = None) -> dict[str, int]:
    """Deliver spooled runs to their MLflow store, in order and nothing twice.

    Args:
        path: A spool file, or a folder that is searched for a run's spool files.
        uri: The store of all; None for the one that each run was started with, which its folder
            notes, else as for `tracking_uri`.

    Returns:
        How many points each run delivered. Runs that are still going on are left out: they
        deliver by themselves.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ConnectionError: If the store does not answer, or stops answering; what was delivered until
            then is noted and not sent again.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"no spool at {place}; give the run's folder or its spool file")
    files = [place] if place.is_file() else sorted(place.rglob("*.jsonl"))
    spools = [s for s in (Spool(f.parent, f.stem) for f in files if _is_spool(f)) if s]
    if not spools:
        return {}
    clients: dict[str, MlflowClient] = {}
    delivered: dict[str, int] = {}
    for spool in spools:
        address = tracking_uri(uri or _noted_store(spool))
        if address not in clients:
            clients[address] = _client_of(address)
        with contextlib.suppress(BlockingIOError), spool.lock():
            delivered[spool.run_id] = _drain(spool, clients[address], address)
    return delivered


def _noted_store(spool: Spool) -> str | None:
    """Return the store's URI in the configuration of the spool's run; None if none is noted."""
    note = spool.path.absolute().parent.parent / "config.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(read_sealed(note)["tracking"]["uri"] or "") or None
    return None


def _client_of(address: str) -> MlflowClient:
    probe_store(address)
    if not store_exists(address):
        raise ConnectionError(
            f"there is no MLflow store {address}; name the runs' store by --tracking-uri"
        )
    return make_client(address)


def _drain(spool: Spool, client: MlflowClient, uri: str) -> int:
    try:
        return spool.drain(client)
    except Exception as error:
        reason = mask_secrets(str(error)).splitlines()[0][:300]
        raise ConnectionError(
            f"run {spool.run_id} could not be delivered to {mask_secrets(uri)}: {reason}; "
            f"the rest stays in {spool.path}"
        ) from error


def _checked_number(number: int) -> str:
    return f"{number} {zlib.crc32(str(number).encode())}"


def _is_spool(path: Path) -> bool:
    return path.suffix == ".jsonl" and len(path.stem) == 32 and path.stem.isalnum()


def _same_file(path: Path, handle: IO[bytes]) -> bool:
    """Return whether ``path`` still is the open file: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except OSError:
        return False
