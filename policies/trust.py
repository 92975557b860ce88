"""Trust in labels: a filter before any policy, so that what selects and what filters are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_fraction
from gstds.common.state import Stateful
from gstds.observation.shown import Shown
from gstds.policies.base import Observation, Policy, RunContext, Transition, Weights, transition_of
from gstds.selection.control import least_loss, wrong_label_chances, wrong_label_share
from gstds.selection.weights import valid_batch

TRUSTS = ("reference", "agreement", "none")
"""What a label is trusted by."""

Trust = npt.NDArray[np.floating[Any]]


class LabelTrust(Stateful):
    """How far labels are trusted, by the cross-fitted losses of the reference.

    ``reference``: trust falls from 1 to 0 as the label's chance to be wrong rises from 0 to
    ``doubt``, see `gstds.selection.control`; how many are wrong is estimated, and a wrong one taken
    for uniformly drawn. ``agreement``: 1 where the reference gives the label at least half, so that
    no class has more, else 0; nothing is assumed of the wrong ones.

    Args:
        kind: One of `TRUSTS`; ``none`` trusts all.
        doubt: Chance of a wrong label, in [0, 1], from which on a sample is not trusted.
    """

    state = ("_batches", "_surest")

    def __init__(self, kind: str = "reference", doubt: float = 0.1) -> None:
        self.kind, self.doubt = check_choice("trust", kind, TRUSTS), check_fraction("doubt", doubt)
        self.needs = {} if kind == "none" else {"reference_losses": dict[str, Any]()}

    def begin(self, classes: int, mend: str) -> None:
        """Begin a run that has seen no batch.

        Raises:
            ValueError: If labels are doubted that are no classes; ``mend`` says what else to do.
        """
        if self.needs and classes < 2:
            raise ValueError(
                f"doubt={self.doubt:g} weighs the chance of a wrong class, and num_classes is "
                f"{classes}; pass num_classes=, or {mend}"
            )
        self._classes, self._batches, self._surest = classes, 0, 0.0

    def of(self, batch: Mapping[str, Any]) -> Trust:
        """Return the trust (n,) in [0, 1] in the labels of a batch of valid samples."""
        if not self.needs:
            return np.ones(len(batch["valid"]))
        losses = np.asarray(batch["reference_losses"])
        if self.kind == "agreement":
            return np.asarray(losses <= math.log(2.0), dtype=np.float64)
        share = wrong_label_share(self._mean_surest(losses))
        chances = wrong_label_chances(losses, share, self._classes)
        return np.asarray(np.maximum(0.0, 1.0 - chances / self.doubt))

    def learn(self, observation: Observation) -> None:
        """Remember how sure the reference was of the batch's surest samples."""
        if self.kind == "reference":
            _, batch = valid_batch(observation)
            self._surest = self._mean_surest(batch["reference_losses"])
            self._batches += 1

    def _mean_surest(self, losses: npt.ArrayLike) -> float:
        """Return the mean of `least_loss` over the batches so far and this one."""
        return (self._batches * self._surest + least_loss(losses)) / (self._batches + 1)


class Trusting(Policy):
    """Another policy, that is to keep nothing whose label is not trusted.

    It keeps as many samples of a batch as it would, if there are as many trusted ones; ``trust``
    among what it observes says which (`gstds.selection.weights.weights_for_ratio` goes by that).
    What a policy keeps all the same is dropped.

    Args:
        policy: The policy.
        kind: What a label is trusted by: ``reference`` or ``agreement``.
    """

    state = ("policy", "_trust")

    def __init__(self, policy: Policy, kind: str) -> None:
        self.policy, self._trust = policy, LabelTrust(kind)
        self.needs = {**policy.needs, **self._trust.needs}
        self.max_weight, self.normalizer = policy.max_weight, policy.normalizer
        self.uses_reward = policy.uses_reward

    def reset(self, seed: int, context: RunContext) -> None:
        """Begin a run."""
        self._trust.begin(context.num_classes, "trust='none'")
        self.policy.reset(seed, context)

    def act(self, observation: Observation) -> Weights:
        """Return the policy's weights (N,), 0 where a label is not trusted."""
        rows, batch = valid_batch(observation)
        trust = np.zeros(len(observation["valid"]), dtype=np.float32)
        trust[rows] = self._trust.of(batch) if len(rows) else 0.0
        seen = self._shown(observation) | {"trust": trust}
        weights = np.asarray(self.policy.act(Shown(seen, type(self.policy).__name__)))
        return np.where(trust > 0, weights, np.float32(0))

    def learn(self, transition: Transition) -> None:
        """Have the policy learn, and remember what the reference said of the batch."""
        self._trust.learn(transition.observation)
        before, after = map(self._shown, (transition.observation, transition.next_observation))
        reward = transition.reward if self.uses_reward else 0.0
        self.policy.learn(
            transition_of(self.policy, before, transition.weights, reward, after, transition.info)
        )

    def _shown(self, observation: Observation) -> dict[str, Any]:
        hidden = self._trust.needs.keys() - self.policy.needs.keys()
        return {name: value for name, value in observation.items() if name not in hidden}

    def step_flops(self, drawn: int, kept: int, context: RunContext) -> float:
        """Return the policy's own."""
        return self.policy.step_flops(drawn, kept, context)
