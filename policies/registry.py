"""Policies by name: the built-in ones, installed plug-ins, and ``module:Class`` of a user's own.

What a policy says of itself is checked when it is made. A user's policy must not define nearly a
name of the interface: a method with a wrong name is never called and an attribute with a wrong name
never read, so the run would go on silently without it.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gstds.common import checks
from gstds.common.checks import near_names, users_code
from gstds.policies.base import KeepRatioPolicy, Policy
from gstds.policies.trust import TRUSTS, Trusting
from gstds.reference.vision import mend_imports
from gstds.selection.pickers import picker_options
from gstds.selection.schedules import Schedule

_LOSSES = "gstds.policies.published.losses"
_HISTORY = "gstds.policies.published.history"

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
    "big-loss": f"{_LOSSES}.top_score:BigLoss",
    "budget": "gstds.policies.adaptive.budget:BudgetControl",
    "difficulty": f"{_LOSSES}.difficulty:Difficulty",
    "divbs": "gstds.policies.published.gradients.divbs:DivBS",
    "easy-reference": f"{_LOSSES}.top_score:EasyReference",
    "fiedler-boundary": "gstds.policies.published.diversity.coverage:FiedlerBoundary",
    "gradient-noise": "gstds.policies.adaptive.closed_loop:GradientNoise",
    "infobatch": f"{_HISTORY}.infobatch:InfoBatch",
    "jest": f"{_LOSSES}.learnability:Jest",
    "kakurenbo": f"{_HISTORY}.kakurenbo:Kakurenbo",
    "k-center": "gstds.policies.published.diversity.coverage:KCenter",
    "loss-gap": "gstds.policies.adaptive.closed_loop:LossGap",
    "linucb": "gstds.policies.learned.linucb:LinUCB",
    "lowest-degree": "gstds.policies.published.diversity.coverage:LowestDegree",
    "pdd": f"{_LOSSES}.progressive_dropout:PDD",
    "plateau": "gstds.policies.adaptive.closed_loop:Plateau",
    "rcap": f"{_HISTORY}.rcap:RCAP",
    "rho-loss": f"{_LOSSES}.learnability:RhoLoss",
    "selective-backprop": f"{_LOSSES}.selective_backprop:SelectiveBackprop",
    "seta": f"{_HISTORY}.seta:SeTa",
    "stale-big-loss": f"{_LOSSES}.top_score:StaleBigLoss",
    "stale-jest": f"{_LOSSES}.learnability:StaleJest",
    "stale-pdd": f"{_LOSSES}.progressive_dropout:StalePDD",
    "stale-rho-loss": f"{_LOSSES}.learnability:StaleRhoLoss",
    "stale-selective-backprop": f"{_LOSSES}.selective_backprop:StaleSelectiveBackprop",
    "uncertainty": f"{_LOSSES}.top_score:Uncertainty",
    "windowed-selective-backprop": f"{_LOSSES}.selective_backprop:WindowedSelectiveBackprop",
}

_WITH_ARGUMENT = {
    LEARNED: "gstds.policies.learned.agent_policy:Learned",
    REPLAY: "gstds.policies.uninformed.replay:Replay",
}


def installed_policies() -> dict[str, str]:
    """Return the plug-ins that installed packages offer, name -> ``module:Class``."""
    return {p.name: p.value for p in importlib.metadata.entry_points(group="gstds.policies")}


def policy_names() -> dict[str, str]:
    """Return every policy that has a name, with one line of description.

    Plug-ins are listed by where they come from; their code runs only when they are named.
    """
    texts = {name: inspect.getdoc(policy_class(name)) or "" for name in POLICIES}
    names = {name: text.partition("\n")[0] for name, text in texts.items()}
    return {name: f"plug-in {target}" for name, target in installed_policies().items()} | names


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
    named = POLICIES | UNLISTED
    if name in named and name in installed_policies():
        raise ValueError(
            f"policy {name!r}: the installed plug-in {installed_policies()[name]} takes the name "
            "of a policy that comes with gstds; give its entry point another name"
        )
    target = name if ":" in name else named.get(name) or installed_policies().get(name)
    for prefix, kind in _WITH_ARGUMENT.items():
        target = kind if name.startswith(prefix) else target
    if target is None:
        near = near_names(name, installed_policies() | named)
        raise ValueError(f"policy: unknown name {name!r}; {near}, or module:Class")
    what = f"policy {name!r}"
    mend_imports()
    found = checks.import_attribute(what, target, kind="Class", meant=_is_policy)
    if not _is_policy(found):
        raise TypeError(f"{what} must be a subclass of gstds.Policy, got {found!r}")
    return found  # type: ignore[no-any-return]


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


def make_policy(
    name: str, *, schedule: Schedule | None = None, trust: str | None = None, **parameters: Any
) -> Policy:
    """Return a policy by name.

    Args:
        name: As for `policy_class`.
        schedule: Keep-ratio schedule, for the policies whose ratio is free.
        trust: What labels are trusted by: ``reference``, ``agreement`` or ``none``, see
            `gstds.policies.trust`; default what the policy does by itself, which for most is none.
        **parameters: The policy's parameters.

    Raises:
        ValueError: If the name or a parameter is unknown, or the policy defines what looks like a
            misspelt name of the interface.
        TypeError: If what the name stands for is no policy.
    """
    kind = policy_class(name)
    checks.check_choice("trust", trust or "none", TRUSTS)
    if trust is not None and "doubt" in inspect.signature(kind).parameters:
        # It weighs by the very trust that the component filters by.
        parameters = {"doubt": 0.0} | parameters if trust != "reference" else parameters
        trust = None if trust == "reference" else trust
    if name.startswith(LEARNED):
        parameters = {"path": name.removeprefix(LEARNED), **parameters}
    if schedule is not None and follows_schedule(kind):
        parameters = {"schedule": schedule, **parameters}
    known = inspect.signature(kind).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in known.values())
    passed_on = picker_options(parameters.get("picker", "hybrid")) if free else []
    if not free or kind.__module__.startswith("gstds."):  # a user's class may take anything
        named = [n for n, p in known.items() if p.kind is not p.VAR_KEYWORD]
        checks.check_known(f"policy {name!r}", "parameter", parameters, [*named, *passed_on])
    for parameter, p in known.items():
        optional = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty
        if not optional and parameter not in parameters:
            raise ValueError(
                f"policy {name!r} needs {parameter}; give --policy-params {parameter}=VALUE"
            )
    try:
        policy = kind(**parameters)
    except (ValueError, TypeError):
        raise
    except (Exception, SystemExit) as error:  # whatever a user's class does when it is made
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"policy {name!r} cannot be made: {reason}") from error
    check_declarations(name, policy)
    return policy if trust in (None, "none") else Trusting(policy, trust)


def check_declarations(name: str, policy: Policy) -> None:
    """Check what a policy says of itself: needs, largest weight, normalizer, names it defines.

    Raises:
        TypeError: If a declaration has the wrong type.
        ValueError: If one is out of range, or a name looks like a misspelt one of the interface.
    """
    who = f"of policy {name!r}"
    declared = {}
    for attribute in ("needs", "max_weight", "normalizer", "uses_reward", "state"):
        with users_code(f"{attribute} {who}"):  # each may be a property
            declared[attribute] = getattr(policy, attribute)
    needs = declared["needs"]
    if not isinstance(needs, Mapping) or not all(isinstance(o, Mapping) for o in needs.values()):
        raise TypeError(
            f"needs {who} must map names to options, such as {{'reference_losses': {{}}}}, "
            f"got {needs!r}"
        )
    checks.check_number(f"max_weight {who}", declared["max_weight"], low=0, high=1e6, open_low=True)
    checks.check_choice(f"normalizer {who}", declared["normalizer"], ("kept", "drawn"))
    state, kind = declared["state"], type(policy)
    if (kind.state_dict is Policy.state_dict) != (kind.load_state_dict is Policy.load_state_dict):
        raise TypeError(
            f"policy {name!r} must define both or neither of state_dict, load_state_dict"
        )
    names = isinstance(state, tuple | list) and all(isinstance(n, str) for n in state)
    if not names and kind.state_dict is Policy.state_dict:
        raise TypeError(
            f"state {who} must be a tuple of attributes' names, such as ('_mean',), got {state!r}"
        )
    refuse_misspelt(name, policy)


_CUTOFF = 0.86
_SHORTEST = 5  # among shorter names too many ordinary words are near
_ENDINGS = ("", "s", "_", "d", "ed", "r", "er", "ing")  # keep_ratios, scheduler: words of their own


def refuse_misspelt(name: str, policy: Policy) -> None:
    """Refuse a policy that defines nearly, but not exactly, a name of the interface.

    Only what can stand for that name counts: a method for a method that takes as many arguments, a
    value for a value of its kind. Classes of the package itself are not looked at.

    Args:
        name: The policy's name, for the message.
        policy: The policy.

    Raises:
        ValueError: The message has both names.
    """
    package = __name__.partition(".")[0]
    kinds = [kind for kind in type(policy).__mro__ if issubclass(kind, Policy)]
    own = [kind for kind in kinds if kind.__module__.partition(".")[0] != package]
    base = next(kind for kind in kinds if kind not in own)
    ours = {n for n in dir(base) if not n.startswith("_")}
    defined = {n: value for kind in reversed(own) for n, value in vars(kind).items()}
    free = [n for n in ours if len(n) >= _SHORTEST and n not in defined]
    for found, value in (defined | vars(policy)).items() if own else ():
        if found in ours or found.startswith("_"):
            continue
        for meant in _near(found, free):
            if _can_stand_for(value, inspect.getattr_static(base, meant)):
                raise ValueError(
                    f"policy {name!r} defines {found!r}; did you mean {meant!r}? If not, give it "
                    "another name"
                )


def _near(found: str, names: list[str]) -> Iterator[str]:
    plain = found.lower()
    for meant in difflib.get_close_matches(plain, names, n=3, cutoff=_CUTOFF):
        rest = plain.removeprefix(meant).rstrip("0123456789")
        if plain == meant or not (plain.startswith(meant) and rest in _ENDINGS):
            yield meant


def _can_stand_for(value: Any, meant: Any) -> bool:
    if inspect.isfunction(meant):
        return _takes_as_many(value, meant)
    if inspect.isfunction(value) or isinstance(value, staticmethod | classmethod):
        return False
    if isinstance(value, property) or isinstance(meant, property) or meant is None:
        return True
    return isinstance(value, bool if isinstance(meant, bool) else type(meant).__mro__[-2])


def _takes_as_many(value: Any, meant: Any) -> bool:
    function = getattr(value, "__func__", value)
    if not inspect.isfunction(function):
        return False
    parameters = inspect.signature(meant).parameters.values()
    count = sum(p.default is p.empty for p in parameters) - isinstance(value, staticmethod)
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True
