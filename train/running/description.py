"""The head of a run's record: its name, parameters, tags, description, and data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gstds.envs.data.datasets import Data
from gstds.train.running.options import RunConfig, identity
from gstds.train.tracking.tracker import DataInput, git_commit

__all__ = ["record_head"]


def record_head(
    config: RunConfig, data: Data, folder: Path, more: Mapping[str, str]
) -> dict[str, Any]:
    """Return the keyword arguments of a tracker's `start`.

    Args:
        config: The run's options.
        data: Its data set.
        folder: Its folder.
        more: Tags that its comparison gives it; they win.
    """
    tags = _tags(config, folder) | dict(more)
    of = more.get("control_of")
    what = f"Policy `{tags['policy']}` on `{config.dataset}`, seed {config.seed}"
    return {
        "name": f"{tags['policy']}-{config.dataset}-seed{config.seed}",
        "params": {k: v for k, v in config.as_dict().items() if v is not None},
        "tags": tags,
        "description": f"{what}, {config.setting}." + (f" A control of {of}." if of else ""),
        "data": DataInput(
            name=data.name,
            digest=data.fingerprint,
            rows=len(data.train),
            classes=data.num_classes,
            shape=(*data.image_shape[1:], data.image_shape[0]),
            source=config.dataset,
        ),
    }


def _tags(config: RunConfig, folder: Path) -> dict[str, str]:
    tags = {
        "policy": config.policy,
        "seed": str(config.seed),
        "dataset": config.dataset,
        "learner": config.learner,
        "setting": config.setting,
        "identity": identity(config),
        "folder": str(folder.absolute()),
        "kind": "run",
    }
    commit = git_commit()
    return tags | ({"git_commit": commit} if commit else {})
