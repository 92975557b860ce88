"""The courier: a background thread that carries what a run logs to the MLflow store.

MLflow's own asynchronous mode loses data without a word, and a call per metric costs 20 ms. So the
caller's thread only appends to a queue; this thread sends batches of up to 1,000 points. What the
store does not take goes to the spool on disk and is sent, in order, when the store is back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gstds.train.tracking.spool import BATCH, Item, Point, Spool
from gstds.train.tracking.store import mask_secrets

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["Courier"]

_log = logging.getLogger(__name__)

_MOST_IN_MEMORY = 100_000  # items, once even the spool cannot be written
_LONGEST_PAUSE = 30.0


class Courier:
    """Delivers items in the order in which they were put.

    Args:
        client: The store's client.
        spool: Where items go that the store does not take.
        interval: Seconds between deliveries.
        warned: What the user was told already: ``down``, that the store does not answer.
    """

    def __init__(
        self,
        client: MlflowClient,
        spool: Spool,
        interval: float = 2.0,
        warned: Iterable[str] = (),
    ) -> None:
        self._client = client
        self._spool = spool
        self._interval = interval
        self._queue: deque[Item] = deque()
        self._in_flight: list[Item] = []
        self._wake = threading.Condition()
        self._writing = threading.Lock()
        self._closing = False
        self._abandoned = False
        self._next_try = 0.0
        self._pause = 1.0
        self._warned = set(warned)
        self._thread = threading.Thread(target=self.work, name="tracking", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue one item; returns at once."""
        with self._wake:
            self._queue.append(item)
            if self._is_pressing():
                self._wake.notify()

    def _is_pressing(self) -> bool:
        """Return whether the queue is long, or begins with what a run is called in the store."""
        queue = self._queue
        return len(queue) >= BATCH // 8 or bool(queue and queue[0].about is not None)

    def waiting_points(self) -> list[Point]:
        """Return the points that are neither delivered nor in the spool yet."""
        with self._wake:
            return [p for item in (*self._in_flight, *self._queue) for p in item.points]

    def close(self, timeout: float) -> bool:
        """Deliver the rest, for at most ``timeout`` seconds; what is left goes to the spool.

        Returns:
            Whether everything was delivered.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout)
        # A call that hangs still holds its batch: that batch is spooled with the rest, and should
        # the call come through after all, the store recognizes the points by their time stamps.
        with self._wake:
            self._abandoned = True
        self._spool_everything()
        return not self._spool and not self._queue

    def work(self) -> None:
        """Deliver until there is nothing more to come: what the thread does."""
        while not self._abandoned:
            with self._wake:
                if not self._closing and not self._is_pressing():
                    self._wake.wait(self._interval)
                closing = self._closing
            if not closing and time.monotonic() < self._next_try:
                self._spool_everything()
                continue
            delivered = self._deliver_all()
            if closing and (not delivered or not self._queue):
                return

    def _deliver_all(self) -> bool:
        """Deliver the spool, then the queue; return whether the store took everything."""
        try:
            if self._spool:
                self._spool.drain(self._client, stop=lambda: self._abandoned)
                self._forget_warning("down")
            while self._take() and not self._abandoned:
                for item in list(self._in_flight):
                    self._send(item)
                    with self._wake, contextlib.suppress(ValueError):
                        self._in_flight.remove(item)
            self._pause = 1.0
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _send(self, item: Item) -> None:
        if item.is_lost():
            self._warn("lost", f"the artifact {item.file} is gone and was not logged")
            return
        try:
            self._spool.send(self._client, item)
        except Exception as error:
            if getattr(error, "error_code", None) != "INVALID_PARAMETER_VALUE":
                raise
            # Sending it again would be refused for ever and hold up everything behind it.
            self._warn("refused", f"the MLflow store refused what was logged: {error}")

    def _take(self) -> bool:
        """Move the next items from the queue: up to 1,000 points joined, or one other item."""
        with self._wake:
            if self._abandoned:
                return False
            points: list[Point] = []
            while self._queue and _is_points(self._queue[0]):
                if points and len(points) + len(self._queue[0].points) > BATCH:
                    break
                points.extend(self._queue.popleft().points)
            chunks = [tuple(points[i : i + BATCH]) for i in range(0, len(points), BATCH)]
            self._in_flight = [Item(points=chunk) for chunk in chunks]
            if not self._in_flight and self._queue:
                self._in_flight = [self._queue.popleft()]
            return bool(self._in_flight)

    def _fail(self, error: Exception) -> None:
        reason = mask_secrets(str(error) or type(error).__name__).splitlines()[0][:300]
        self._warn(
            "down",
            f"the MLflow store does not answer ({reason}); the run goes on "
            f"and {self._spool.path} keeps what it logs",
        )
        self._next_try = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if not self._abandoned:
            self._spool_everything()

    def _spool_everything(self) -> None:
        with self._writing:
            with self._wake:
                held = len(self._in_flight)
                items = [*self._in_flight, *self._queue]
            if not items:
                return
            try:
                self._spool.append(items)
            except OSError as error:
                self._warn("spool", f"the spool {self._spool.path} cannot be written ({error})")
                self._shorten()
                return
            with self._wake:
                # Others only append to the queue, so what was written is its front.
                for _ in range(len(items) - held):
                    self._queue.popleft()
                self._in_flight = []

    def _shorten(self) -> None:
        with self._wake:
            while len(self._queue) > _MOST_IN_MEMORY:
                self._queue.popleft()

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("%s", mask_secrets(message))

    def _forget_warning(self, kind: str) -> None:
        if kind in self._warned:
            self._warned.discard(kind)
            _log.warning("the MLflow store answers again; the spool was delivered")


def _is_points(item: Item) -> bool:
    return bool(item.points) and item == Item(points=item.points)
