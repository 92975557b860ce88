"""What a run may spend, and what each part of it costs, in floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from gstds.envs.learner.learner import Learner
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.rewards import evaluates
from gstds.envs.task.task import Task
from gstds.observation.cost import Ledger
from gstds.observation.spec import asked_of

__all__ = ["Budget", "charge_reference", "check_pays_a_batch", "make_budget"]


@dataclass(frozen=True)
class Budget:
    """The unit prices of a run, and its total.

    Attributes:
        sample_flops: Forward and backward of one sample.
        forward_flops: Forward of one sample.
        full_flops: Training on every sample in every epoch.
        total_flops: What the run may spend; under equal epochs, what full training costs.
        evaluation_flops: One evaluation of the reward-validation split, 0 if nothing consumes it.
        consumes_validation: True if the reward or an observation reads that evaluation.
    """

    sample_flops: float
    forward_flops: float
    full_flops: float
    total_flops: float
    evaluation_flops: float
    consumes_validation: bool


def make_budget(options: EnvOptions, learner: Learner, task: Task) -> Budget:
    """Return the budget of an environment's options.

    Raises:
        ValueError: If the budget does not pay for the reference that it is charged with.
    """
    full = options.epochs * len(task.data.train) * learner.train_flops
    equal_budget = options.setting == "equal-budget"
    total = full * (options.budget if equal_budget else 1.0)
    if options.charge_reference:
        total = _without_reference(total, task)
    consumes = evaluates(options.reward) or bool(asked_of(options.observe, "evaluation"))
    evaluation = len(task.data.reward_validation) * learner.forward_flops if consumes else 0.0
    return Budget(
        sample_flops=learner.train_flops,
        forward_flops=learner.forward_flops,
        full_flops=full,
        total_flops=total,
        evaluation_flops=evaluation,
        consumes_validation=consumes,
    )


def _without_reference(total: float, task: Task) -> float:
    reference = task.reference
    cost = reference.features_flops + reference.probe_flops if reference else 0.0
    if cost >= total:
        raise ValueError(
            f"charge_reference leaves nothing to train with: the reference costs {cost:.3g} "
            f"FLOP, the budget is {total:.3g}; raise --budget or --epochs"
        )
    return total - cost


def charge_reference(ledger: Ledger, task: Task) -> None:
    """Note what the reference's features and probe cost, where there is a reference."""
    if task.reference:
        ledger.charge("features", task.reference.features_flops)
        ledger.charge("probe", task.reference.probe_flops)


def check_pays_a_batch(budget: Budget, options: EnvOptions, policy_flops: float) -> None:
    """Refuse an equal budget that does not pay for one batch with its evaluations.

    Args:
        budget: The run's.
        options: The environment's.
        policy_flops: Operations of the policy's own arithmetic for that batch, at most.

    Raises:
        ValueError: If it does not; the message holds both figures.
    """
    needed = options.batch_size * budget.sample_flops + 2 * budget.evaluation_flops + policy_flops
    if asked_of(options.observe, "learner"):
        needed += options.batch_size * budget.forward_flops
    if options.setting == "equal-budget" and budget.total_flops < needed:
        raise ValueError(
            f"budget={options.budget:g} of {options.epochs} epochs is {budget.total_flops:.3g} "
            f"FLOP, less than one batch with its evaluations ({needed:.3g}); "
            "raise --budget or --epochs, or lower --batch-size"
        )
