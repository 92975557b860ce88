"""Policies by name: the built-in ones, installed plug-ins, and ``module:Class`` of a user's own."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gstds.common.checks import (
    check_choice,
    check_number,
    import_attribute,
    near_names,
    users_code,
)
from gstds.policies.base import KeepRatioPolicy, Policy
from gstds.policies.spelling import refuse_misspelt
from gstds.selection.schedules import Schedule

__all__ = [
    "ENTRY_POINTS",
    "POLICIES",
    "check_declarations",
    "follows_schedule",
    "installed_policies",
    "make_policy",
    "policy_class",
    "policy_names",
    "refuse_idle_schedule",
]

ENTRY_POINTS = "gstds.policies"

_LOSSES = "gstds.policies.published.losses"

UNLISTED: dict[str, str] = {
    "custom": "gstds.policies.custom:Custom",
    "short-full": "gstds.policies.uninformed.uniform:Full",
}
"""Names that say nothing without an argument: understood, not listed. ``short-full`` is what a
comparison calls full training at the compute of another policy."""

LEARNED = "learned:"
"""Before the folder or the name of a trained agent."""

REPLAY = "random:"
"""Before the name of the policy whose keep sequence random samples are drawn to."""

POLICIES: dict[str, str] = {
    "best": "gstds.policies.best:Best",
    "gstds": "gstds.policies.paper:GSTDS",
    "random": "gstds.policies.uninformed.uniform:Random",
    "full": "gstds.policies.uninformed.uniform:Full",
    "bandit": "gstds.policies.adaptive.bandit:KeepRatioBandit",
    "big-loss": f"{_LOSSES}.big_loss:BigLoss",
    "budget": "gstds.policies.adaptive.budget:BudgetControl",
    "divbs": "gstds.policies.published.gradients.divbs:DivBS",
    "easy-reference": f"{_LOSSES}.easy_reference:EasyReference",
    "fiedler-boundary": "gstds.policies.published.diversity.coverage:FiedlerBoundary",
    "gradient-noise": "gstds.policies.adaptive.closed_loop:GradientNoise",
    "infobatch": "gstds.policies.published.history.infobatch:InfoBatch",
    "jest": f"{_LOSSES}.learnability:Jest",
    "k-center": "gstds.policies.published.diversity.coverage:KCenter",
    "loss-gap": "gstds.policies.adaptive.closed_loop:LossGap",
    "linucb": "gstds.policies.learned.linucb:LinUCB",
    "lowest-degree": "gstds.policies.published.diversity.coverage:LowestDegree",
    "plateau": "gstds.policies.adaptive.closed_loop:Plateau",
    "rho-loss": f"{_LOSSES}.learnability:RhoLoss",
    "selective-backprop": f"{_LOSSES}.selective_backprop:SelectiveBackprop",
    "stale-big-loss": f"{_LOSSES}.big_loss:StaleBigLoss",
    "stale-jest": f"{_LOSSES}.learnability:StaleJest",
    "stale-rho-loss": f"{_LOSSES}.learnability:StaleRhoLoss",
    "stale-selective-backprop": f"{_LOSSES}.selective_backprop:StaleSelectiveBackprop",
    "uncertainty": f"{_LOSSES}.uncertainty:Uncertainty",
}


def installed_policies() -> dict[str, str]:
    """Return the plug-ins that installed packages offer, name -> ``module:Class``."""
    return {
        point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)
    }


def policy_names() -> dict[str, str]:
    """Return every policy that has a name, with one line of description.

    Plug-ins are listed by where they come from; their code runs only when they are named.
    """
    names = {name: _first_line(policy_class(name)) for name in POLICIES}
    plugins = {name: f"plug-in {target}" for name, target in installed_policies().items()}
    return plugins | names


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").strip().split("\n")[0]


def policy_class(name: str) -> type[Policy]:
    """Return the class of a policy.

    Args:
        name: A built-in or installed name, ``module:Class``, ``learned:PATH``, or ``random:NAME``
            for random samples to the keep sequence of policy NAME.

    Raises:
        ValueError: If there is no such policy; the message lists the near names.
        TypeError: If what the name stands for is no policy.
    """
    if not isinstance(name, str):
        raise TypeError(f"policy must be a name, got {name!r}")
    if name.startswith(LEARNED):
        return policy_class("gstds.policies.learned.agent_policy:Learned")
    if name.startswith(REPLAY):
        return policy_class("gstds.policies.uninformed.replay:Replay")
    named = POLICIES | UNLISTED
    target = name if ":" in name else named.get(name) or installed_policies().get(name)
    if target is None:
        near = near_names(name, {**installed_policies(), **named})
        raise ValueError(f"policy: unknown name {name!r}; {near}, or module:Class")
    kind = import_attribute(f"policy {name!r}", target, kind="Class", meant=_is_policy)
    if not _is_policy(kind):
        raise TypeError(f"policy {name!r} must be a subclass of gstds.Policy, got {kind!r}")
    return kind  # type: ignore[no-any-return]


def _is_policy(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Policy) and value is not Policy


def follows_schedule(kind: type[Policy]) -> bool:
    """Say whether a policy's keep ratio is free, so that a comparison's schedule sets it."""
    if not issubclass(kind, KeepRatioPolicy):
        return False
    takes_one = "schedule" in inspect.signature(kind).parameters
    return takes_one and kind.keep_ratio is KeepRatioPolicy.keep_ratio


def refuse_idle_schedule(
    name: str, given: Mapping[str, Any], call: Callable[[list[str]], str]
) -> None:
    """Refuse a schedule, or its mean, that would change nothing.

    Args:
        name: The policy's name.
        given: What is given of a schedule, by parameter.
        call: Says how the policy's own parameters are set, from ``["low=...", "high=..."]``.

    Raises:
        ValueError: If something is given and the policy follows no schedule.
    """
    kind = policy_class(name)
    if not given or follows_schedule(kind):
        return
    named = inspect.signature(kind).parameters
    own = [f"{p}=..." for p in named if "picker" not in p and p != "path"]
    first, value = next(iter(given.items()))
    raise ValueError(
        f"{first}: policy {name!r} has a keep ratio of its own and follows no schedule, got "
        f"{value!r}; leave it out" + (f"; it is set by {call(own)}" if own else "")
    )


def _is_missing(parameter: inspect.Parameter, given: Mapping[str, Any]) -> bool:
    variable = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    required = parameter.default is parameter.empty and parameter.kind not in variable
    return required and parameter.name not in given


def make_policy(name: str, *, schedule: Schedule | None = None, **parameters: Any) -> Policy:
    """Return a policy by name.

    Args:
        name: As for `policy_class`.
        schedule: Keep-ratio schedule, for the policies whose ratio is free.
        **parameters: The policy's parameters.

    Raises:
        ValueError: If the name or a parameter is unknown, or the policy defines what looks like a
            misspelt name of the interface.
        TypeError: If what the name stands for is no policy.
    """
    kind = policy_class(name)
    if name.startswith(LEARNED):
        parameters = {"path": name.removeprefix(LEARNED), **parameters}
    signature = inspect.signature(kind)
    free = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for parameter in parameters:
        if parameter not in signature.parameters and not free:
            hint = near_names(parameter, signature.parameters)
            raise ValueError(f"policy {name!r} has no parameter {parameter!r}; {hint}")
    if schedule is not None and follows_schedule(kind):
        parameters = {"schedule": schedule, **parameters}
    missing = [p.name for p in signature.parameters.values() if _is_missing(p, parameters)]
    if missing:
        raise ValueError(
            f"policy {name!r} needs {', '.join(missing)}; give --policy-params {missing[0]}=VALUE"
        )
    try:
        policy = kind(**parameters)
    except (ValueError, TypeError):
        raise
    except (Exception, SystemExit) as error:  # whatever a user's class does when it is made
        raise ValueError(
            f"policy {name!r} cannot be made: {type(error).__name__}: {error}"
        ) from error
    check_declarations(name, policy)
    return policy


def check_declarations(name: str, policy: Policy) -> None:
    """Check what a policy says of itself: needs, largest weight, normalizer, names it defines.

    Raises:
        TypeError: If a declaration has the wrong type.
        ValueError: If one is out of range, or a name looks like a misspelt one of the interface.
    """
    declared = {}
    for attribute in ("needs", "max_weight", "normalizer", "uses_reward"):
        with users_code(f"{attribute} of policy {name!r}"):  # each may be a property
            declared[attribute] = getattr(policy, attribute)
    needs = declared["needs"]
    if not isinstance(needs, Mapping) or not all(isinstance(o, Mapping) for o in needs.values()):
        raise TypeError(
            f"needs of policy {name!r} must map names to options, such as "
            f"{{'reference_losses': {{}}}}, got {needs!r}"
        )
    who = f"of policy {name!r}"
    check_number(f"max_weight {who}", declared["max_weight"], low=0, high=1e6, open_low=True)
    check_choice(f"normalizer {who}", declared["normalizer"], ("kept", "drawn"))
    remembers = getattr(type(policy), "state", ())
    if isinstance(remembers, str) and type(policy).state_dict is Policy.state_dict:
        raise TypeError(
            f"state of policy {name!r} must be a tuple of attributes' names, such as "
            f"({remembers!r},), got {remembers!r}"
        )
    refuse_misspelt(name, policy)
