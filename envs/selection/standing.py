"""What both environments are to gymnasium: copied, pickled, closed, and looked at."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice
from gstds.common.state import Stateful

NOT_RUNNING = "the run has ended, was closed or was not begun: call reset first"
_FRAME, _BACKGROUND, _EDGE = (255, 176, 0), 24, 2
_LARGEST_SIDE = 64


class StandingEnv(Stateful, gymnasium.Env[Any, Any]):
    """An environment that is copied and pickled by its options and its state, in mid-episode too.

    Data, the reference and threads are not copied: each process has its own.

    Attributes:
        running: Whether there are steps to come.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    running = False
    _first = True

    def _made_with(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        state = None if self._first else self.state_dict()
        return _again, (type(self), self._made_with(), self.spec, state)

    def close(self) -> None:
        """End the run; `reset` begins another."""
        self.running = False


def _again(
    kind: type[Any], options: dict[str, Any], spec: Any, state: dict[str, Any] | None
) -> Any:
    env = kind(**options)
    env.spec = spec
    if state is not None:
        env.load_state_dict(state)
    return env


def check_render_mode(mode: str | None) -> str | None:
    """Return a render mode if there is one of that name.

    Raises:
        ValueError: If there is none.
    """
    return mode and check_choice("render_mode", mode, StandingEnv.metadata["render_modes"])


def picture(
    images: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_], places: int
) -> npt.NDArray[np.uint8]:
    """Return images (n, C, H, W) side by side in a square of places, (height, width, 3).

    Those kept (n,) have a frame. Of large images every other pixel is shown, or fewer.
    """
    stride = -(-max(images.shape[2:]) // _LARGEST_SIDE)
    shown = images[:, :3, ::stride, ::stride].transpose(0, 2, 3, 1)
    n, height, width = shown.shape[:3]
    height, width, columns = height + 2 * _EDGE, width + 2 * _EDGE, math.isqrt(places - 1) + 1
    rows = -(-places // columns)
    tiles = np.full((rows * columns, height, width, 3), _BACKGROUND, dtype=np.uint8)
    tiles[:n][kept] = _FRAME
    tiles[:n, _EDGE:-_EDGE, _EDGE:-_EDGE] = shown if shown.shape[3] == 3 else shown[..., :1]
    together = tiles.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return together.reshape(rows * height, columns * width, 3)
