"""A trained network in a folder: its weights, and what rebuilds it and says how it is fed.

``model/weights.safetensors`` holds the state of the network that was trained, under its own names;
``model/model.json`` is written last and holds the weights' digest, so that the pair is whole or is
not there.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gstds.common.checksummed_json import read_sealed, write_sealed
from gstds.common.files import sha256, write_bytes
from gstds.common.state import all_finite, state_digest
from gstds.envs.batches.loader import scale_and_shift
from gstds.envs.data.datasets import Data
from gstds.envs.learner.models import build_model
from gstds.options.fields import Options, select
from gstds.options.world import LearnerOptions

FOLDER = "model"
_WEIGHTS, _NOTE = "weights.safetensors", "model.json"
_log = logging.getLogger(__name__)


def save_network(
    folder: Path, model: nn.Module, data: Data, options: Options, **facts: Any
) -> None:
    """Write a network into a run's folder.

    Args:
        folder: The run's folder.
        model: The network.
        data: What it was trained on: classes, size and scale of the images.
        options: How it was trained: the learner's among others.
        **facts: What else is noted, JSON-able: at least ``weights_sha256``, the digest of its
            state, and ``module``, what `module_file` said at the start.

    Raises:
        OSError: If it cannot be written; then none is there.
    """
    from safetensors.torch import save

    place, state = folder / FOLDER, model.state_dict()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    note = {"version": 1, **facts, "task": "classification", "inputs": "images"}
    note |= {"class_names": data.class_names, "shape": data.image_shape}
    note |= {"mean": data.mean, "std": data.std, "depth": getattr(data.train.source, "depth", 16)}
    chosen = select(options, LearnerOptions)
    note |= {"learner": chosen.learner, "options": chosen.as_dict()}
    (place / _NOTE).unlink(missing_ok=True)  # its weights are about to be replaced
    write_bytes(place / _WEIGHTS, save(tensors))
    write_sealed(place / _NOTE, note)


def module_file(learner: str) -> dict[str, str] | None:
    """Return the path that a user's network was imported from, and the digest of its file.

    None for a network that has a name.
    """
    name, colon, _ = learner.partition(":")
    file = Path(getattr(sys.modules.get(name), "__file__", None) or "")
    if not colon or not file.is_file():
        return None
    top = file.resolve().parents[name.count(".") + (file.name == "__init__.py")]
    return {"path": str(top), "sha256": sha256(file.read_bytes())}


def load_network(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the network that a run's folder holds.

    A user's network is imported by its ``module:function``, from where it was then.

    Returns:
        The network in evaluation mode, and what ``model.json`` says of it. It takes images
        (n, C, H, W), in uint8 as they are or in floats normalized as in training, and returns
        logits (n, classes).

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or the user's function is gone or makes another network.
    """
    from safetensors.torch import load

    place = folder / FOLDER
    if not (place / _NOTE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no network ({FOLDER}/{_NOTE}): its run has not ended (gstds run "
            "--resume), or is of release 0.1, which kept none: run it again"
        )
    note = read_sealed(place / _NOTE)
    if note.get("version") != 1 or note.get("inputs") != "images":
        raise ValueError(f"{place / _NOTE} is of a release that this one does not know")
    try:
        tensors = load((place / _WEIGHTS).read_bytes())
        if state_digest(tensors) != note["weights_sha256"]:
            raise ValueError("its weights are not those that were written")
        if not all_finite(tensors):
            raise ValueError("its weights are not finite: the run diverged")
        model = _rebuilt(note)
        model.load_state_dict(tensors)
        pixels = scale_and_shift(tuple(note["mean"]), tuple(note["std"]), torch.device("cpu"))
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(f"the network in {place} cannot be used: {error}") from error
    model.register_buffer("gstds_pixels", pixels, persistent=False)
    model.register_forward_pre_hook(_normalize)
    return model.eval(), note


def _rebuilt(note: dict[str, Any]) -> nn.Module:
    learner, module = note["learner"], note["module"]
    if module and module["path"] not in sys.path:  # behind what is installed
        sys.path.append(module["path"])
    model = build_model(learner, tuple(note["shape"]), len(note["class_names"]), seed=0)
    if module and (found := module_file(learner)) and found["sha256"] != module["sha256"]:
        told = f"learner {learner!r}: its file in {module['path']} has changed since the run"
        if found["path"] != module["path"]:  # this process knows another module of that name
            raise ValueError(f"{told}, or is hidden by that in {found['path']}")
        _log.warning("%s", told)
    return model if ":" in learner else model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _normalize(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    images, *more = inputs
    if images.dtype == torch.uint8:
        scale, shift = model.get_buffer("gstds_pixels")
        images = images.to(torch.float32) * scale - shift
    return images, *more


def example_images(note: dict[str, Any], count: int = 2) -> torch.Tensor:
    """Return made-up images, uint8 (count, C, H, W), for a network of this note."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *note["shape"]), dtype=torch.uint8, generator=draws)
