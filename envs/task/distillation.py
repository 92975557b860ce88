"""Distillation: the learner is also taught what the reference thinks of each sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from gstds.envs.task.options import EnvOptions
from gstds.envs.task.task import ReferenceData

__all__ = ["Teacher", "make_teacher"]


@dataclass(frozen=True)
class Teacher:
    """The reference's cross-fitted logits as a second target of the learner's loss.

    A sample's objective is (1 - share) · cross-entropy + share · T² · KL(reference ‖ learner), with
    both distributions at temperature T. Source: Hinton, Vinyals and Dean, arXiv 1503.02531.

    Attributes:
        logits: The reference's (n, C), of all training samples, on the learner's device.
        share: Weight of the reference's word, in (0, 1].
        temperature: T, above 0.
    """

    logits: torch.Tensor
    share: float
    temperature: float

    def objective(
        self, losses: torch.Tensor, logits: torch.Tensor, indices: npt.NDArray[np.int64]
    ) -> torch.Tensor:
        """Return what is minimized for each sample (k,).

        Args:
            losses: Cross-entropy (k,).
            logits: The learner's (k, C).
            indices: The training samples (k,).
        """
        rows = torch.as_tensor(indices, device=self.logits.device)
        target = F.log_softmax(self.logits[rows] / self.temperature, dim=1)
        said = F.log_softmax(logits / self.temperature, dim=1)
        apart = F.kl_div(said, target, reduction="none", log_target=True).sum(dim=1)
        return (1.0 - self.share) * losses + self.share * self.temperature**2 * apart


def make_teacher(
    options: EnvOptions, reference: ReferenceData | None, device: torch.device
) -> Teacher | None:
    """Return what the options ask for, None if they ask for no distillation.

    Raises:
        ValueError: If they do, and there is no reference with logits.
    """
    if options.distill == 0.0:
        return None
    if reference is None or reference.logits is None:
        raise ValueError(f"distill={options.distill:g} needs a reference, and there is none")
    logits = torch.as_tensor(reference.logits, device=device)
    return Teacher(logits, options.distill, options.distill_temperature)
