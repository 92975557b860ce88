"""What one forward of the learner says of a drawn batch."""

from __future__ import annotations

import contextlib
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
    seen: list[torch.Tensor] = []
    with contextlib.ExitStack() as stack:
        if "learner_embeddings" in names:
            note = _head(learner).register_forward_pre_hook(
                lambda _, inputs: seen.append(inputs[0])
            )
            stack.callback(note.remove)
        logits = learner.logits(images)
    probabilities = logits.softmax(1)
    two = probabilities.topk(2, dim=1).values
    surprise = -torch.special.xlogy(probabilities, probabilities).sum(1)
    view = {
        "learner_losses": F.cross_entropy(logits, labels, reduction="none"),
        "learner_margin": two[:, 0] - two[:, 1],
        "learner_entropy": surprise / math.log(logits.shape[1]),
        "learner_probabilities": probabilities,
    }
    if seen:
        view["learner_embeddings"] = seen[-1].float().flatten(1)
    return {name: value.cpu().numpy() for name, value in view.items() if name in names}


def embedding_width(learner: Learner) -> int:
    """Return the width of the last layer's input.

    Raises:
        ValueError: If the network's output comes from no linear layer.
    """
    return _head(learner).in_features


def _head(learner: Learner) -> nn.Linear:
    """Return the last linear layer, in the order of definition, that gives the logits."""
    layers = [one for one in learner.model.modules() if isinstance(one, nn.Linear)]
    heads = [layer for layer in layers if layer.out_features == learner.classes]
    if not heads:
        raise ValueError(
            "observe 'learner_embeddings' needs a learner whose logits come from a torch.nn.Linear "
            f"layer of {learner.classes} outputs; this one has none"
        )
    return heads[-1]
