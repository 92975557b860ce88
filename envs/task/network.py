"""A trained network in a folder: its weights, and what rebuilds it and says how it is fed.

``model/weights.safetensors`` holds the state of the network that was trained, under its own names;
``model/model.json`` is written last and holds the weights' digest, so that the pair is whole or is
not there.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
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
from gstds.options.world import LearnerOptions

FOLDER = "model"
_WEIGHTS, _NOTE = "weights.safetensors", "model.json"
_log = logging.getLogger(__name__)


def save_network(
    folder: Path, model: nn.Module, data: Data, options: LearnerOptions, **facts: Any
) -> None:
    """Write a network into a run's folder.

    Args:
        folder: The run's folder.
        model: The network.
        data: What it was trained on: classes, size and scale of the images.
        options: How it was trained.
        **facts: What else is noted, JSON-able; ``module`` is what `module_file` said at the start.

    Raises:
        OSError: If it cannot be written; then none is there.
    """
    from safetensors.torch import save

    place, state = folder / FOLDER, model.state_dict()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    note = {"version": 1, **facts, "weights_sha256": state_digest(tensors)}
    note |= {"task": "classification", "inputs": "images", "class_names": data.class_names}
    note |= {"shape": data.image_shape, "mean": data.mean, "std": data.std}
    note |= {"depth": getattr(data.train.source, "depth", 16)}
    note |= {"learner": options.learner, "options": options.as_dict()}
    (place / _NOTE).unlink(missing_ok=True)  # its weights are about to be replaced
    write_bytes(place / _WEIGHTS, save(tensors))
    write_sealed(place / _NOTE, note)


def module_file(learner: str) -> dict[str, str] | None:
    """Return where a user's network was imported from: its path, its file, and that one's digest.

    None for a network that has a name.
    """
    name, colon, _ = learner.partition(":")
    file = getattr(sys.modules.get(name), "__file__", None)
    if not colon or file is None:
        return None
    path = Path(file).resolve()
    top = path.parents[name.count(".") + (path.name == "__init__.py")]
    return {"path": str(top), "file": str(path), "sha256": sha256(path.read_bytes())}


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        model: The network in evaluation mode; takes images (n, C, H, W), in uint8 as they are or
            in floats normalized as in training, and returns logits (n, classes).
        note: What ``model.json`` says of it.
    """

    model: nn.Module
    note: dict[str, Any]

    def example(self, count: int = 2) -> torch.Tensor:
        """Return made-up images, uint8 (count, C, H, W), no two alike."""
        shape = (count, *self.note["shape"])
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def load_network(folder: Path) -> Network:
    """Rebuild the network that a run's folder holds.

    A user's network is imported by its ``module:function``, from where it was then.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or the user's function is gone or makes another network.
    """
    from safetensors.torch import load

    place = folder / FOLDER
    if not (place / _NOTE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no network ({FOLDER}/{_NOTE}): its run has not ended, or is of "
            "release 0.1, which kept none; let it end (gstds run --resume), or run it again"
        )
    note = read_sealed(place / _NOTE)
    if note.get("version") != 1 or note.get("inputs") != "images":
        raise ValueError(f"{place / _NOTE} is of a release that this one does not know")
    try:
        tensors = load((place / _WEIGHTS).read_bytes())
        shape, classes = tuple(note["shape"]), len(note["class_names"])
        learner, module = note["learner"], note["module"]
        pixels = scale_and_shift(tuple(note["mean"]), tuple(note["std"]), torch.device("cpu"))
        if state_digest(tensors) != note["weights_sha256"]:
            raise ValueError("its digest is not that of model.json")
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(f"the network in {place} is damaged: {error}") from error
    if not all_finite(tensors):
        raise ValueError(f"the weights in {place} are not finite: the run diverged")
    if module and module["path"] not in sys.path:  # behind what is installed; the user's own
        sys.path.append(module["path"])
    model = build_model(learner, shape, classes, seed=0)
    if module:
        _check_source(learner, module)
    if ":" not in learner:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"learner {learner!r} is not what was trained: {error}") from error
    for name, value in zip(("pixel_scale", "pixel_shift"), pixels, strict=True):
        model.register_buffer(f"gstds_{name}", value, persistent=False)
    model.register_forward_pre_hook(_normalize)
    return Network(model.eval(), note)


def _normalize(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    images, *more = inputs
    if images.dtype == torch.uint8:
        images = images.to(torch.float32) * model.gstds_pixel_scale - model.gstds_pixel_shift
    return images, *more


def _check_source(learner: str, module: dict[str, str]) -> None:
    """Refuse another module of the same name; say if the user's was changed since."""
    found = module_file(learner)
    if found is None or found["sha256"] == module["sha256"]:
        return
    if found["file"] != module["file"]:
        raise ValueError(
            f"learner {learner!r} is imported from {found['file']}, but the run's is "
            f"{module['file']}; begin Python anew, in the folder of the run's"
        )
    _log.warning("learner %r: %s has changed since the run", learner, module["file"])
