"""Progressive data dropout (PDD): no update on what the learner knows already."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_fraction, check_integer
from gstds.policies.base import Observation, Policy, RunContext, Weights
from gstds.selection.weights import check_cross_entropy, label_chances

_EDGE = 1e-6  # progress arrives rounded


class PDD(Policy):
    """PDD (DBPD): kept are the samples whose label is less likely than a threshold; all, at last.

    That is the release's rule, which also takes no update where no sample of a batch is left. Its
    other ways to drop are the schedule `decaying` with `random` (SRD), and `random:pdd` (SMRD).
    Here the scoring forward is in evaluation mode and is charged, in the last epochs too; there it
    is in training mode, and in none of its counts.

    Source: PDD, arXiv 2505.22342; the release bazyagami/LearningWithRevision
    Cost: n·f for the learner's forward
    Helps: many epochs on data that are learned early: then it costs little more than the forwards
    Hurts: noisy labels: they are what stays; a learner that knows all: nothing is trained on, which
        a `Selector` refuses after an epoch

    Args:
        threshold: Probability of the label from which on a sample is dropped, in (0, 1].
        revision: Epochs at the end in which everything is kept.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    needs = {"learner_probabilities": {}}  # noqa: RUF012  (a constant of the class)
    _epochs = 1

    def __init__(self, threshold: float = 0.3, revision: int = 1) -> None:
        self.threshold = check_fraction("threshold", threshold, open_low=True)
        self.revision = check_integer("revision", revision, low=0)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run."""
        self._epochs = context.epochs

    def act(self, observation: Observation) -> Weights:
        """Return weights (N,): 1 for what is not known yet, 0 for the others."""
        valid = np.asarray(observation["valid"]) > 0.5
        last = observation["progress"][0] >= 1.0 - self.revision / self._epochs - _EDGE
        return np.asarray(valid & (self._unknown(observation) | last), dtype=np.float32)

    def _unknown(self, observation: Observation) -> npt.NDArray[Any]:
        labels = np.asarray(observation["labels"]).astype(np.int64)
        chances = np.asarray(observation["learner_probabilities"])
        return np.asarray(chances[np.arange(len(labels)), labels] < self.threshold)


class StalePDD(PDD):
    """PDD on each sample's probability when it was last trained on: no scoring forward.

    No release has it. The probability is exp(-last loss): the loss must be a classification's
    cross-entropy. What was dropped would never come back, so it does after ``refresh`` epochs;
    samples never trained on are kept.

    Source: after PDD, arXiv 2505.22342, and not the same
    Cost: nothing beside training on the kept samples
    Helps: as pdd, and whenever a forward is dear
    Hurts: as pdd; few epochs: the first keeps everything

    Args:
        threshold: Probability of the label from which on a sample is dropped, in (0, 1].
        revision: Epochs at the end in which everything is kept.
        refresh: Epochs after which a dropped sample is kept once, whatever it was.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    needs = {}  # noqa: RUF012

    def __init__(self, threshold: float = 0.3, revision: int = 1, refresh: int = 5) -> None:
        super().__init__(threshold, revision)
        self.refresh = check_integer("refresh", refresh, low=1)

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run.

        Raises:
            ValueError: If it is no classification.
        """
        super().reset(seed, context)
        check_cross_entropy("stale-pdd", context.num_classes)

    def _unknown(self, observation: Observation) -> npt.NDArray[Any]:
        unknown = label_chances(observation["last_losses"]) < self.threshold
        unknown |= np.asarray(observation["visited"]) < 0.5
        old = np.asarray(observation["age"]) >= self.refresh / self._epochs - _EDGE
        return np.asarray(unknown | old)
