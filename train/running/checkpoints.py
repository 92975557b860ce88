"""A run's checkpoints: everything that it needs to go on, in its folder, and room for them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.state import StateError, all_finite, latest_state, save_state

if TYPE_CHECKING:
    from gstds.envs import DataSelectionEnv

__all__ = ["CHECKPOINT_EVERY", "Checkpoints", "check_space", "space_needed"]

_log = logging.getLogger(__name__)
CHECKPOINT_EVERY = 200
_RESULTS = 500_000


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: The run's folder.
        every: Steps between two; 0 for none.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.place = folder / "checkpoints"
        self.every = every

    def due(self, step: int, stopping: bool) -> bool:
        """Return whether to save one after a step."""
        return self.every > 0 and (stopping or step % self.every == 0)

    def latest(self) -> dict[str, Any] | None:
        """Return the newest that is not damaged, None if there is none.

        Raises:
            StateError: If all are damaged.
        """
        return latest_state(self.place)

    def misfit(self, error: BaseException) -> StateError:
        """Return the error of a checkpoint that is whole, but of another run or release."""
        return StateError(
            f"the checkpoint in {self.place} does not fit this run "
            f"({type(error).__name__}: {error}); delete the folder to start over"
        )

    def save(self, env: DataSelectionEnv, parts: Mapping[str, Any]) -> None:
        """Save the environment's state and other parts; a full disk costs the checkpoint alone."""
        state = {"env": env.state_dict(), **parts}
        with env.ledger.timed("checkpoint"):
            if not all_finite(env.learner.model.state_dict()):
                _log.warning("no checkpoint at step %d: weights not finite", env.step_count)
                return
            try:
                save_state(self.place, env.step_count, state)
            except OSError as error:
                _log.warning("no checkpoint at step %d: %s", env.step_count, error)


def space_needed(env: Any, *, checkpoints: bool) -> int:
    """Return about how many bytes a run writes at most: checkpoints, result, pictures.

    Args:
        env: The run's environment.
        checkpoints: Whether the run writes any.
    """
    weights = sum(tensor.nbytes for tensor in env.learner.model.state_dict().values())
    bits = min(env.total_steps, env.max_draws) * (env.options.batch_size // 8 + 1)
    one = 3 * weights + 32 * len(env.data.train) + bits
    # Two checkpoints are kept, and a third is there while it is written.
    return int(3 * one * checkpoints + bits + _RESULTS)


def check_space(folder: Path, needed: int) -> None:
    """Refuse a folder whose disk has less room than a run needs.

    Args:
        folder: Where the run writes.
        needed: Bytes.

    Raises:
        OSError: If there is less; the message names both figures.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"--out {str(folder)!r}: no space on the disk, {free / 1e6:.1f} MB free and up to "
            f"{needed / 1e6:.1f} MB needed; free some, name another folder, or do without "
            "checkpoints: --checkpoint-every 0"
        )
