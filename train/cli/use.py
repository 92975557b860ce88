"""What a trained network is used for: loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gstds.train.tracking.delivery import find_run

if TYPE_CHECKING:
    from torch import nn


def load_learner(run: str | Path, *, tracking: str | None = None) -> nn.Module:
    """Return the network that a run has trained, in evaluation mode, on the processor.

    It takes images (n, C, H, W): in uint8 as they are, 0 to 255, or in floats normalized as in
    training; and returns logits (n, classes). Its state is the one that was trained, under the same
    names. A user's own is imported by its ``module:function``: load only runs that you trust.

    Args:
        run: The run's folder, or its id, gstds' own or MLflow's.
        tracking: URI of the MLflow store that knows the id; default as for `gstds run`.

    Raises:
        FileNotFoundError: If the run has left no network: it has not ended, or is of release 0.1.
        ValueError: If there is no such run, or its network is damaged, diverged, or a user's that
            cannot be built any more.
    """
    from gstds.envs.task.network import load_network

    return load_network(find_run("run", str(run), tracking)).model
