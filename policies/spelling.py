"""Attributes of a user's policy that look like a misspelt name of the interface.

A method with a wrong name is never called and an attribute with a wrong name is never read: the
run would go on silently without it.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from gstds.policies.base import Policy

__all__ = ["refuse_misspelt"]

_CUTOFF = 0.86
_SHORTEST = 5  # among shorter names too many ordinary words are near
_DESCRIBING = {"source", "cost", "helps", "hurts"}  # no run depends on them
_ENDINGS = ("s", "_", "d", "ed", "r", "er", "ing")  # keep_ratios, scheduler: words of their own


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
    kinds = type(policy).__mro__
    own = [kind for kind in kinds if issubclass(kind, Policy) and not _is_ours(kind)]
    if not own:
        return
    base = next(kind for kind in kinds if issubclass(kind, Policy) and _is_ours(kind))
    ours = {n for n in dir(base) if not n.startswith("_")}
    defined = {n: value for kind in reversed(own) for n, value in vars(kind).items()}
    free = [n for n in ours - _DESCRIBING if len(n) >= _SHORTEST and n not in defined]
    for found, value in (defined | vars(policy)).items():
        if found in ours or found.startswith("_"):
            continue
        for meant in _near(found, free):
            if _can_stand_for(value, inspect.getattr_static(base, meant)):
                raise ValueError(
                    f"policy {name!r} defines {found!r}; did you mean {meant!r}? If not, give it "
                    "another name"
                )


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def _near(found: str, names: list[str]) -> Iterator[str]:
    plain = found.lower()
    for meant in difflib.get_close_matches(plain, names, n=3, cutoff=_CUTOFF):
        rest = plain.removeprefix(meant).rstrip("0123456789")
        another_word = plain.startswith(meant) and rest in ("", *_ENDINGS)
        if plain == meant or not another_word:
            yield meant


def _can_stand_for(value: Any, meant: Any) -> bool:
    if inspect.isfunction(meant):
        return _takes_as_many(value, meant)
    if inspect.isfunction(value) or isinstance(value, staticmethod | classmethod):
        return False
    if isinstance(value, property) or isinstance(meant, property) or meant is None:
        return True
    return any(isinstance(value, kind) and isinstance(meant, kind) for kind in _kinds_of(meant))


def _kinds_of(meant: Any) -> tuple[type, ...]:
    if isinstance(meant, bool | str):
        return (type(meant),)
    if isinstance(meant, int | float):
        return (int, float)
    return (Mapping,) if isinstance(meant, Mapping) else (type(meant).__mro__[-2],)


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
