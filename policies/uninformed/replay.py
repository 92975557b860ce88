"""The control of every other policy: random samples, but as many of each batch as it kept."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import numpy.typing as npt

from gstds.policies.base import KeepRatioPolicy, Observation, RunContext


class Replay(KeepRatioPolicy):
    """Uniform random keep with the keep sequence of another run.

    Under equal epochs the sequence is replayed step by step. Under an equal budget it is replayed
    by the share of the budget that is spent: the ratio that the other run had when it had spent as
    much.

    Source: the control of Learning to Teach (RandTeach), arXiv 1805.03643
    Cost: nothing beside training on the kept samples
    Helps: to tell what a policy keeps from how much of it
    Hurts: nothing: it is a control

    Args:
        ratios: The other run's realized keep ratios (T,), as `encode_sequence` writes them.
        progress: Share of the budget that it had spent after each step (T,), likewise; None under
            equal epochs.

    Raises:
        ValueError: If a sequence is damaged, empty or out of range, or the two differ in length.
    """

    def __init__(self, ratios: str, progress: str | None = None) -> None:
        super().__init__(None, "uniform")
        self._ratios = decode_sequence("ratios", ratios)
        self._progress = None if progress is None else decode_sequence("progress", progress)
        if self._progress is not None and len(self._progress) != len(self._ratios):
            raise ValueError(
                f"progress must have as many steps as ratios, {len(self._ratios)}, "
                f"got {len(self._progress)}"
            )

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run.

        Raises:
            ValueError: If the sequence does not fit the run's setting or length.
        """
        super().reset(seed, context)
        by_budget = context.setting == "equal-budget"
        if by_budget != (self._progress is not None):
            asked = "needs" if by_budget else "takes no"
            raise ValueError(f"replaying under {context.setting} {asked} progress")
        if not by_budget and len(self._ratios) != context.total_steps:
            raise ValueError(
                f"ratios must have one entry for each of the run's {context.total_steps} steps, "
                f"got {len(self._ratios)}"
            )

    def keep_ratio(self, observation: Observation) -> float:
        """Return what the other run kept at this step, or at this share of the budget."""
        if self._progress is None:
            step = round(self.schedule_progress(observation) * len(self._ratios))
        else:
            step = int(np.searchsorted(self._progress, observation["progress"][0], side="right"))
        return float(self._ratios[min(step, len(self._ratios) - 1)])


def encode_sequence(values: npt.ArrayLike) -> str:
    """Return shares (T,) as text: float32, little-endian, deflated, in base64."""
    packed = zlib.compress(np.asarray(values, dtype="<f4").tobytes(), 9)
    return base64.b64encode(packed).decode()


def decode_sequence(name: str, text: str) -> npt.NDArray[np.float32]:
    """Return the shares (T,) that `encode_sequence` wrote.

    Raises:
        ValueError: If the text is damaged, or holds no shares; the message names the parameter.
    """
    try:
        raw = zlib.decompress(base64.b64decode(text, validate=True))
        values = np.frombuffer(raw, dtype="<f4").astype(np.float32)
    except (zlib.error, ValueError, TypeError) as error:
        raise ValueError(f"{name} is no sequence that encode_sequence wrote: {error}") from error
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name} must hold at least one share, and all in [0, 1]")
    return values
