"""A policy is asked once about a batch that nobody drew, before data and reference are touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gstds.common.checks import users_code
from gstds.observation.batch_view import checked_weights
from gstds.observation.shown import NotDeclaredError, Noted, made_up_batch
from gstds.observation.spec import OBSERVATIONS, OPTIONAL_OBSERVATIONS, check_observe
from gstds.policies.base import Policy, RunContext, begin_run

CLASSES = 10


def made_up_context(n: int = 32, **known: Any) -> RunContext:
    """Return the facts of a run that there is not, with drawn batches of n samples."""
    return RunContext(
        **{
            "batch_size": n,
            "budget_flops": 300.0 * n,
            "epochs": 10,
            "forward_flops": 1.0,
            "max_draws": 100,
            "num_classes": CLASSES,
            "num_samples": 10 * n,
            "sample_flops": 3.0,
            "setting": "equal-epochs",
            "steps_per_epoch": 10,
            "total_steps": 100,
            "feature_dim": 6,
            "embedding_dim": 5,
            **known,
        }
    )


def line_to_add(policy: Policy, missing: Iterable[str]) -> str:
    """Return the line of the class that declares what is missing beside what it declares."""
    picker = getattr(policy, "picker", None)
    told = {k: v for k, v in policy.needs.items() if k not in (picker.needs if picker else ())}
    return f"needs = {told | {name: {} for name in missing}}"


def undeclared(name: str, policy: Policy, n: int = 32) -> list[str]:
    """Return the observations that a policy reads of a made-up batch and does not declare.

    Raises:
        ValueError: If what it answers are no weights.
    """
    observe = check_observe("needs", policy.needs)
    shown = made_up_batch(n, CLASSES, observe=observe, progress=0.0)
    hidden = {k: v for k, v in made_up_batch(n, CLASSES).items() if k not in shown}
    view = Noted(shown, name, hidden=hidden)
    checked_weights(policy.act(view), n, policy.max_weight, where="", name="weights")
    asked = {OBSERVATIONS[name].beside or name for name in view.read if name in hidden}
    return [name for name in OPTIONAL_OBSERVATIONS if name in asked]


def rehearse(name: str, policy: Policy, n: int) -> None:
    """Ask a policy about a made-up batch; it is not to be used afterwards.

    A policy whose `reset` refuses the made-up facts, such as a number of samples that is not that
    of its own table, is not asked.

    Args:
        name: The policy's name, for messages.
        policy: The policy.
        n: N, the size of a drawn batch.

    Raises:
        ValueError: If `reset` changes what the policy declares, or `act` raises, answers something
            that is no weights, or reads observations that ``needs`` does not declare: all of them,
            with the line to add.
    """
    with users_code(f"policy {name!r}, asked about a made-up batch of {n} samples,"):
        try:
            begin_run(policy, 0, made_up_context(n))
        except (ValueError, IndexError, LookupError, AssertionError, OSError):
            return
        missing = undeclared(name, policy, n)
    if missing:
        raise NotDeclaredError(
            f"policy {name!r} reads {', '.join(missing)} and does not declare it; add to the "
            f"class: {line_to_add(policy, missing)}"
        )
