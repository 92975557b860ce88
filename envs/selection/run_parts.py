"""What a run is made of, and what it may spend, in floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gstds.common.process_group import Group
from gstds.envs.batches.loader import Loader
from gstds.envs.batches.order import Draws
from gstds.envs.learner.learner import Learner
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.rewards import evaluates
from gstds.envs.task.task import Task
from gstds.observation.cost import Ledger
from gstds.observation.spec import asked_of

__all__ = ["Budget", "RunParts", "check_pays_a_batch", "make_budget"]


class Budget(NamedTuple):
    """What a run may spend.

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
