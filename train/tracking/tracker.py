"""The record of a run in MLflow: its own buffer, a background thread, a spool for bad days.

Rules: ``log``, ``log_text`` and ``log_file`` never raise and never wait for the store. A bad metric
name is left out with one warning. NaN is kept; infinity is logged as NaN, because the store would
show it as 1.8e308. A metric's step is logged once: a second value for the same step, or one for an
earlier step, is left out, which is what lets a resumed run repeat steps.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gstds.train.tracking.delivery import Courier
from gstds.train.tracking.offline_runs import find, new_head, new_id
from gstds.train.tracking.run_header import DataInput, RunRecord, git_commit
from gstds.train.tracking.spool import Item, Point, Spool, sync_spool
from gstds.train.tracking.store import client as make_client
from gstds.train.tracking.store import mask_secrets, prepare_store, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = [
    "DataInput",
    "MlflowTracker",
    "NullTracker",
    "Tracker",
    "git_commit",
    "mask_secrets",
    "prepare_store",
    "sync_spool",
    "tracking_uri",
]

_log = logging.getLogger(__name__)

FINISH_SECONDS = 30.0
_STATUS = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "interrupted": "KILLED",
}
_NAME = re.compile(r"[\w.\- ]+(/[\w.\- ]+)*")


class Tracker(Protocol):
    """What a run tells about itself while it goes on."""

    @property
    def run_id(self) -> str | None:
        """The run's id."""

    def prepare(self) -> None:
        """Make sure that the store can be used, and make it if it is not there."""

    def address(self) -> dict[str, str | None] | None:
        """Return what finds the store again; None if nothing is kept."""

    def start(
        self,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        description: str = "",
        data: DataInput | None = None,
        resume: str | None = None,
    ) -> str:
        """Open a run, or open ``resume`` again, and return its id."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log values of metrics named ``section/name`` at a step."""

    def log_text(self, text: str, path: str) -> None:
        """Log a text as the artifact ``path``."""

    def log_file(self, local: Path, folder: str = "") -> None:
        """Log a local file as an artifact in ``folder``; it must stand there until `finish`."""

    def finish(self, status: str) -> None:
        """End the run: ``finished``, ``failed``, ``diverged`` or ``interrupted``."""

    def seconds(self) -> float:
        """Return the seconds that the caller's thread has spent in this tracker."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs so that a resumed run misses no step; JSON-able."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's state, before or after `start`."""


class NullTracker:
    """A tracker that keeps nothing."""

    run_id: str | None = None

    def prepare(self) -> None:
        """Do nothing."""

    def address(self) -> None:
        """Return None."""

    def start(
        self,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        description: str = "",
        data: DataInput | None = None,
        resume: str | None = None,
    ) -> str:
        """Return an empty id."""
        return ""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_text(self, text: str, path: str) -> None:
        """Do nothing."""

    def log_file(self, local: Path, folder: str = "") -> None:
        """Do nothing."""

    def finish(self, status: str) -> None:
        """Do nothing."""

    def seconds(self) -> float:
        """Return 0."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class MlflowTracker:
    """A tracker that writes to an MLflow store.

    Args:
        uri: The store; None as for `tracking_uri`.
        experiment: The experiment's name.
        spool: Folder for what the store does not take; default ``spool`` in the working folder.
        interval: Seconds between deliveries.
        finish_seconds: The longest that `finish` waits for the store.
        patient: Begin a run even if the store does not answer: all is spooled, its head included.
    """

    def __init__(
        self,
        uri: str | None = None,
        experiment: str = "gstds",
        spool: Path | str = "spool",
        *,
        interval: float = 2.0,
        finish_seconds: float = FINISH_SECONDS,
        patient: bool = False,
    ) -> None:
        self.uri = tracking_uri(uri)
        self.experiment = experiment
        self.experiment_id: str | None = None
        self.delivered: bool | None = None
        self._spool_folder = Path(spool).absolute()
        self._interval = interval
        self._finish_seconds = finish_seconds
        self._seconds = 0.0
        self._last: dict[str, int] = {}
        self._restored: list[Point] = []
        self._good_names: dict[str, bool] = {}
        self._warned: set[str] = set()
        self._patient = patient
        self._away = False
        self._id: str | None = None
        self._spool: Spool | None = None
        self._courier: Courier | None = None
        self._about: Item | None = None
        self._lock = contextlib.ExitStack()

    @property
    def run_id(self) -> str | None:
        """The run's id in the store; until the store knows the run, one of its own."""
        return self._id if self._spool is None else self._spool.target

    def prepare(self) -> None:
        """Make sure that the store answers and holds the experiment.

        Raises:
            ConnectionError: If the store does not answer, unless this tracker is patient.
            OSError: If the folder of a sqlite store cannot be written.
            ValueError: If the URI or the experiment cannot be used.
        """
        # Not on the run's clock: MLflow is imported and the store made once, before a run begins.
        try:
            self.experiment_id = prepare_store(self.uri, self.experiment)
        except ConnectionError as error:
            self._stay_away(error)

    def address(self) -> dict[str, str | None]:
        """Return the store's URI, None if it holds a secret, and the experiment's name."""
        known = mask_secrets(self.uri) == self.uri
        return {"uri": self.uri if known else None, "experiment": self.experiment}

    def start(
        self,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        description: str = "",
        data: DataInput | None = None,
        resume: str | None = None,
    ) -> str:
        """Open a run in the store, which must answer unless this tracker is patient.

        Args:
            name: The run's name in the UI.
            params: Its configuration. Values over 6,000 characters become artifacts.
            tags: Tags. Values over 8,000 characters become artifacts; ``policy`` sets the color.
            description: Markdown shown on the run's page.
            data: The training data.
            resume: Id of a run to go on with, instead of a new one.

        Returns:
            The run's id.

        Raises:
            ConnectionError: If the store does not answer, unless this tracker is patient.
            OSError: If the spool's folder cannot be written, or the run is open elsewhere.
            ValueError: If the URI cannot be used, or the store has no run ``resume``.
        """
        if self.experiment_id is None and not self._away:
            self.prepare()
        head = {
            "name": name,
            "params": params,
            "tags": tags,
            "description": description,
            "data": data,
        }
        with self._clock():
            client = make_client(self.uri)
            spool = self._open(client, resume, head)
            if spool is None:
                spool = self._open_later(resume, head)
            self._id, self._spool = spool.run_id, spool
            known = {"down"} if self._away else set()
            self._courier = Courier(client, spool, self._interval, known)
            self._put(self._about)
            self._put_back()
        return self._id

    def _stay_away(self, error: Exception) -> None:
        """Go on without the store, if that is wanted."""
        if not self._patient:
            raise error
        self._away = True
        reason = str(error).split("; ")[0]
        self._warn_once(
            f"the run begins without its MLflow store ({reason}); its record waits "
            f"in {self._spool_folder} until the store answers, or for gstds sync"
        )

    def _open(self, client: MlflowClient, resume: str | None, head: dict[str, Any]) -> Spool | None:
        """Open a run in the store; None if that waits until the store answers."""
        unheard = resume and Spool(self._spool_folder, resume).has_head()
        if self._away or unheard:
            return None
        try:
            return self._open_now(client, resume, head)
        except (OSError, ValueError):
            raise
        except Exception as error:  # the store stopped answering, or answers nonsense
            self._stay_away(error)
            return None

    def _open_now(self, client: MlflowClient, resume: str | None, head: dict[str, Any]) -> Spool:
        record = RunRecord(client, self.uri)
        place = str(self.experiment_id)
        if resume is None:
            run = record.create(place, head["name"], head["tags"])
            # It has its name; what else there is to say goes the way of all that is logged.
            self._about = Item(about=new_head(self.experiment, **head))
            return self._open_spool(str(run.info.run_id))
        run = find(client, place, resume) or record.open(resume)
        client.update_run(run.info.run_id, status="RUNNING")
        spool = self._open_spool(resume)
        spool.target = str(run.info.run_id)
        record.describe(run, **{key: value for key, value in head.items() if key != "name"})
        self._find_position(record, run, spool)
        return spool

    def _open_later(self, resume: str | None, head: dict[str, Any]) -> Spool:
        """Open a run that the store gets to know later: its head goes into the spool."""
        spool = self._open_spool(resume or new_id())
        if not spool.has_head():
            content = new_head(self.experiment, resume=bool(resume), **head)
            spool.append([Item(head=content)])
        self._last = spool.last_steps()
        return spool

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue values; see the module's rules. Never raises, never waits."""
        with self._clock(), self._never_raise("log"):
            now = time.time_ns() // 1_000_000
            points = [
                Point(key, self._finite_or_nan(key, value), now, int(step))
                for key, value in metrics.items()
                if self._is_good(key) and self._is_new(key, int(step))
            ]
            self._put(Item(points=tuple(points)) if points else None)

    def log_text(self, text: str, path: str) -> None:
        """Queue a text artifact. Never raises, never waits."""
        with self._clock(), self._never_raise("log_text"):
            self._put(Item(text=mask_secrets(text), path=path))

    def log_file(self, local: Path, folder: str = "") -> None:
        """Queue a file artifact; it must stand there until `finish`. Never raises or waits."""
        with self._clock(), self._never_raise("log_file"):
            self._put(Item(file=str(Path(local).absolute()), path=folder))

    def finish(self, status: str) -> None:
        """Deliver the rest for at most 30 seconds, then leave it to the spool.

        Args:
            status: ``finished``, ``failed``, ``diverged`` or ``interrupted``. MLflow knows no
                ``diverged``: that run is FAILED, and its tag ``status`` says more.

        Raises:
            ValueError: If ``status`` is none of these.
        """
        if status not in _STATUS:
            raise ValueError(f"status must be one of {', '.join(_STATUS)}, got {status!r}")
        with self._clock(), self._never_raise("finish"):
            if self._courier is None:
                return
            end = time.time_ns() // 1_000_000
            self._put(Item(tags=(("status", status),), status=_STATUS[status], end_time=end))
            self.delivered = self._courier.close(self._finish_seconds)
            self._courier = None
            self._lock.close()

    def seconds(self) -> float:
        """Return the seconds that the caller's thread has spent in this tracker."""
        return self._seconds

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id and the points that are neither delivered nor spooled yet.

        Artifacts that wait in memory are not part of it: a resumed run logs them again.
        """
        with self._clock():
            waiting = self._courier.waiting_points() if self._courier else self._restored
            points = [[p.key, None if math.isnan(p.value) else p.value, *p[2:]] for p in waiting]
            return {"run_id": self._id, "waiting": points}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's state: its waiting points are logged unless the store has them.

        Raises:
            ValueError: If the state is of another run than the one that was started.
        """
        other = state.get("run_id")
        if self._id is not None and other is not None and other != self._id:
            raise ValueError(f"the checkpoint's tracker is of run {other}, this run is {self._id}")
        self._restored = [
            Point(key, math.nan if value is None else float(value), int(timestamp), int(step))
            for key, value, timestamp, step in state.get("waiting", ())
        ]
        self._put_back()

    def _open_spool(self, run_id: str) -> Spool:
        spool = Spool(self._spool_folder, run_id)
        try:
            self._lock.enter_context(spool.lock())
        except BlockingIOError as error:
            raise BlockingIOError(
                f"run {run_id} is open in another process, or being synced; end that one first"
            ) from error
        return spool

    def _find_position(self, record: RunRecord, run: Run, spool: Spool) -> None:
        """Learn up to which step each metric is in the store, or waits in the spool for it."""
        self._last = record.last_steps(run)
        for key, step in spool.last_steps().items():
            self._last[key] = max(step, self._last.get(key, step))

    def _put_back(self) -> None:
        if self._courier is None or not self._restored:
            return
        points = tuple(p for p in self._restored if self._is_new(p.key, p.step))
        self._restored = []
        self._put(Item(points=points) if points else None)

    def _put(self, item: Item | None) -> None:
        if item is not None and self._courier is not None:
            self._courier.put(item)

    def _is_new(self, key: str, step: int) -> bool:
        if step <= self._last.get(key, step - 1):
            return False
        self._last[key] = step
        return True

    def _is_good(self, key: str) -> bool:
        known = self._good_names.get(key)
        if known is None:
            known = isinstance(key, str) and len(key) <= 250 and bool(_NAME.fullmatch(key))
            known = known and not any(part in (".", "..") for part in key.split("/"))
            self._good_names[key] = known
            if not known:
                self._warn_once(
                    f"metric {key!r} is left out: names are section/name of letters, digits, "
                    "'_', '-', '.' and spaces, at most 250 characters"
                )
        return known

    def _finite_or_nan(self, key: str, value: float) -> float:
        number = float(value)
        if math.isinf(number):
            self._warn_once(f"metric {key!r} became infinite; it is logged as NaN")
            return math.nan
        return number

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s", mask_secrets(message))

    @contextlib.contextmanager
    def _clock(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - begin

    @contextlib.contextmanager
    def _never_raise(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a run must not die of its record
            self._warn_once(f"tracking: {action} failed: {type(error).__name__}: {error}")
