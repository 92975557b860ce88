"""What one forward of the learner says of a drawn batch."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from gstds.envs.learner.learner import Learner

__all__ = ["embedding_width", "learner_view"]

Array = npt.NDArray[np.float32]


@torch.inference_mode()
def learner_view(
    learner: Learner, images: torch.Tensor, labels: torch.Tensor, names: Collection[str]
) -> dict[str, Array]:
    """Return the named observations of the learner, all from one forward in evaluation mode.

    Args:
        learner: The network under training.
        images: Normalized images (n, C, H, W).
        labels: Classes (n,).
        names: Of ``learner_losses`` (n,), ``learner_margin`` (n,), ``learner_entropy`` (n,),
            ``learner_probabilities`` (n, classes), ``learner_embeddings`` (n, width); others are
            ignored.

    Raises:
        ValueError: If embeddings are named and the network's output comes from no linear layer.
    """
    embeddings = None
    if "learner_embeddings" in names:
        logits, embeddings = _with_embeddings(learner, images)
    else:
        logits = learner.logits(images)
    view = {"learner_losses": F.cross_entropy(logits, labels, reduction="none")}
    view |= _confidence(logits)
    if embeddings is not None:
        view["learner_embeddings"] = embeddings
    return {name: value.cpu().numpy() for name, value in view.items() if name in names}


def _confidence(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    probabilities = logits.softmax(1)
    two = probabilities.topk(2, dim=1).values if logits.shape[1] > 1 else None
    surprise = -torch.special.xlogy(probabilities, probabilities).sum(1)
    return {
        "learner_margin": probabilities[:, 0] if two is None else two[:, 0] - two[:, 1],
        "learner_entropy": surprise / math.log(max(2, logits.shape[1])),
        "learner_probabilities": probabilities,
    }


def _head(model: nn.Module, classes: int) -> nn.Linear:
    """Return the last linear layer, in the order of definition, that gives the logits."""
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not heads:
        raise ValueError(
            "observe 'learner_embeddings' needs a learner whose logits come from a torch.nn.Linear "
            f"layer of {classes} outputs; this one has none"
        )
    return heads[-1]


def _with_embeddings(learner: Learner, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    seen: list[torch.Tensor] = []
    head = _head(learner.model, learner.classes)
    handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        logits = learner.logits(images)
    finally:
        handle.remove()
    return logits, seen[-1].float().flatten(1)


def embedding_width(learner: Learner) -> int:
    """Return the width of the last layer's input.

    Raises:
        ValueError: If the network's output comes from no linear layer.
    """
    return _head(learner.model, learner.classes).in_features
