"""What a run is made of, what it may spend, and what its evaluations pay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from gstds.common.process_group import Group
from gstds.common.state import Stateful
from gstds.envs.batches.loader import Loader
from gstds.envs.batches.order import Draws
from gstds.envs.learner.learner import Evaluation, Learner
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.rewards import RewardMeter, evaluates
from gstds.envs.task.task import Task
from gstds.observation.cost import Ledger
from gstds.observation.spec import LOSS_BOUND, asked_of

_TINY = 1e-6


class Budget(NamedTuple):
    """What a run may spend, in floating-point operations.

    Attributes:
        full_flops: Training on every sample in every epoch.
        total_flops: What the run may spend; under equal epochs, what full training costs.
        evaluation_flops: One evaluation of the reward-validation split, 0 if neither the reward nor
            an observation reads it.
    """

    full_flops: float
    total_flops: float
    evaluation_flops: float


@dataclass(frozen=True)
class RunParts:
    """What trainer, scorer and evaluator of one run share.

    Attributes:
        options: The environment's.
        task: Data and reference.
        budget: What the run may spend.
        draws: Which samples each step draws, and in which epoch.
        learner: The network under training.
        loader: What it is fed.
        ledger: Is charged.
        group: The processes that train together.
    """

    options: EnvOptions
    task: Task
    budget: Budget
    draws: Draws
    learner: Learner
    loader: Loader
    ledger: Ledger
    group: Group


def make_budget(options: EnvOptions, learner: Learner, task: Task) -> Budget:
    """Return the budget of an environment's options.

    Raises:
        ValueError: If the budget does not pay for the reference that it is charged with.
    """
    full = options.epochs * len(task.data.train) * learner.train_flops
    total = full * (options.budget if options.setting == "equal-budget" else 1.0)
    if options.charge_reference and task.reference:
        cost = task.reference.features_flops + task.reference.probe_flops
        if cost >= total:
            raise ValueError(
                f"charge_reference leaves nothing to train with: the reference costs {cost:.3g} "
                f"FLOP, the budget is {total:.3g}; raise --budget or --epochs"
            )
        total -= cost
    consumed = evaluates(options.reward) or asked_of(options.observe, "evaluation")
    evaluation = len(task.data.reward_validation) * learner.forward_flops
    return Budget(full, total, evaluation if consumed else 0.0)


def check_pays_a_batch(
    budget: Budget, options: EnvOptions, learner: Learner, policy_flops: float
) -> None:
    """Refuse an equal budget that does not pay for one batch with its evaluations.

    Args:
        budget: The run's.
        options: The environment's.
        learner: The network under training.
        policy_flops: Operations of the policy's own arithmetic for that batch, at most.

    Raises:
        ValueError: If it does not; the message holds both figures.
    """
    needed = options.batch_size * learner.train_flops + 2 * budget.evaluation_flops + policy_flops
    if asked_of(options.observe, "learner"):
        needed += options.batch_size * learner.forward_flops
    if options.setting == "equal-budget" and budget.total_flops < needed:
        raise ValueError(
            f"budget={options.budget:g} of {options.epochs} epochs is {budget.total_flops:.3g} "
            f"FLOP, less than one batch with its evaluations ({needed:.3g}); "
            "raise --budget or --epochs, or lower --batch-size"
        )


class Evaluator(Stateful):
    """Evaluates the learner at fixed shares of the run, and pays for what was learned meanwhile.

    Args:
        run: What the run is made of.
        max_draws: Drawn batches after which the run is cut off.

    Attributes:
        last: The last evaluation of reward-validation, of zeros if nothing consumes it.
    """

    state = ("_done", "_draws", "_meter", "last")

    def __init__(self, run: RunParts, max_draws: int) -> None:
        self._run = run
        self._wanted = run.options.evaluations or run.options.epochs
        self._spacing = max(1, max_draws // self._wanted)
        self._done = self._draws = 0
        self._meter = RewardMeter(run.options.reward, price=run.options.price)
        self.last = Evaluation(0.0, 0.0, ())

    def begin(self) -> None:
        """Evaluate the untrained learner, where something consumes it."""
        if self._run.budget.evaluation_flops:
            self.last = self._evaluate("evaluate", "reward_validation")
            self._meter.begin(_bounded(self.last.loss), self.last.accuracy, 0.0)

    def view(self) -> dict[str, float]:
        """Return the observations that it has the values of."""
        return {"validation_loss": self.last.loss, "validation_accuracy": self.last.accuracy}

    def if_due(
        self, *, done: bool, progress: float, step: int, affordable: bool
    ) -> tuple[bool, float]:
        """Say whether an evaluation is due, and return the reward.

        Args:
            done: True after the last step: an evaluation is then always due.
            progress: Share of the run done.
            step: Drawn batches so far.
            affordable: Whether the budget pays for an evaluation.
        """
        options, budget = self._run.options, self._run.budget
        reached = int(progress * self._wanted + _TINY)
        late = options.setting == "equal-budget" and step - self._draws >= self._spacing
        if not done and not ((reached > self._done or late) and affordable):
            return False, 0.0
        self._done, self._draws = max(self._done, reached), step
        if not budget.evaluation_flops:
            return True, 0.0
        now = self.last = self._evaluate("evaluate", "reward_validation")
        spent = self._run.ledger.charged_flops / budget.total_flops
        reward = self._meter.reward(_bounded(now.loss), now.accuracy, spent, done=done)
        return True, float(reward)

    def monitor(self, split: str) -> Evaluation:
        """Evaluate the learner on a split by name, for the record: counted, not charged."""
        return self._evaluate("monitor", split)

    def _evaluate(self, phase: str, split: str) -> Evaluation:
        run, part = self._run, getattr(self._run.task.data, split)
        with run.ledger.timed(phase):
            # The test part by what is delivered: a network in float32.
            result = run.learner.evaluate(run.loader.batches(part), exact=split == "test")
        run.ledger.charge(phase, len(part) * run.learner.forward_flops)
        return result


def _bounded(loss: float) -> float:
    return min(loss, LOSS_BOUND) if math.isfinite(loss) else LOSS_BOUND
