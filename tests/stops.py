"""Ways to stop a run in the middle."""

from __future__ import annotations

from typing import Any

from gstds.train.running.ending import StopFlag


class StopAfter(StopFlag):
    """Stops a run after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @property
    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0

    def set(self, *_: Any) -> None:
        pass
