"""An option is a field of a dataclass: annotation and metadata say its kind, help and bounds.

The checks, the environments' keyword arguments, the command line, the YAML file, hints and the
docs' table derive from it. Groups of options are dataclasses that are put together by inheritance:
names are flat, and unique by that. Nothing heavy is imported: the command line begins here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Self, TypeVar

from gstds.common.checks import check_choice, check_integer, check_number, near_names

Group = TypeVar("Group", bound="Options")
_KINDS = {"dict": "map", "tuple": "list", "Any": "any"}


def option(
    default: Any,
    help_text: str,
    within: str | tuple[str, ...] = "",
    *,
    metavar: str = "",
    flag: bool = False,
) -> Any:
    """Return the field of an option; its kind is its annotation.

    Args:
        default: Its value where none is given.
        help_text: A line about it; the default is added where it is shown.
        within: The range of a number, as ``[0, 1)`` or ``[1, inf)``; or the names that it may have.
            Without one a whole number is at least 0, and all else may be anything of its kind.
        metavar: What stands for its value in help; default the last word of its name.
        flag: On the command line it is only ever switched on.
    """
    about = {"help": help_text, "within": within, "metavar": metavar, "flag": flag}
    if default == {}:
        return field(default_factory=dict, metadata=about)
    return field(default=default, metadata=about)


def other_default(kind: type[Options], name: str, default: Any) -> Any:
    """Return the field of a group's option where a class has another default for it."""
    about = next(one.metadata for one in fields(kind) if one.name == name)
    return field(default=default, metadata=about)


def kind_of(one: Field[Any]) -> str:
    """Return an option's kind: str, int, float, bool, map, list or any."""
    name = str(one.type).partition(" ")[0].partition("[")[0]
    return _KINDS.get(name, name)


def default_of(one: Field[Any]) -> Any:
    """Return an option's default."""
    return {} if one.default is MISSING else one.default


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options by name, checked one by one when they are made.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    def __post_init__(self) -> None:
        """Check each by its kind, choices and bounds; whole numbers become ints, others floats."""
        for one in fields(self):
            value = getattr(self, one.name)
            if "help" in one.metadata and not (value is None and default_of(one) is None):
                object.__setattr__(self, one.name, _checked(one, value))

    def with_options(self, **changes: Any) -> Self:
        """Return a copy with some options changed."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as JSON-able values."""
        return asdict(self)


def _checked(one: Field[Any], value: Any) -> Any:
    name, kind, about = one.name, kind_of(one), one.metadata
    if kind == "str" and not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r}")
    if kind == "map" and not isinstance(value, Mapping):
        raise TypeError(f"{name} must map names to values, got {value!r}")
    if kind == "list":
        if not isinstance(value, list | tuple) or not value:
            raise TypeError(f"{name} must be a list, such as [a, b], got {value!r}")
        return tuple(value)
    if kind == "bool":
        if type(value).__name__ not in ("bool", "bool_"):  # numpy has its own
            raise TypeError(f"{name} must be true or false, got {value!r}")
        return bool(value)
    within = about["within"]
    if kind not in ("int", "float"):
        return check_choice(name, value, within) if within else value
    within = within or {"int": "[0, inf)", "float": "[-inf, inf]"}[kind]
    low, high = map(float, within[1:-1].split(","))
    if kind == "int":
        return check_integer(name, value, low=int(low), high=None if high > 1e18 else int(high))
    ends = {"open_low": within[0] == "(", "open_high": within[-1] == ")"}
    return check_number(name, value, low=low, high=high, **ends)


def names(kind: type[Options]) -> list[str]:
    """Return the names of a group's options."""
    return [one.name for one in fields(kind) if "help" in one.metadata]


def groups(kind: type[Options]) -> dict[str, list[Field[Any]]]:
    """Return the options of each group that a class is put together of; the last base is first.

    Returns:
        The first line of the group's docstring -> its options.
    """
    found: dict[str, list[Field[Any]]] = {}
    known = {one.name: one for one in fields(kind) if "help" in one.metadata}
    for base in reversed(kind.__mro__):
        own = [known.pop(name) for name in inspect.get_annotations(base) if name in known]
        if own and is_dataclass(base):
            title = (base.__doc__ or "").strip().split("\n")[0].rstrip(".")
            found.setdefault(title, []).extend(own)
    return found


def by_group(options: Options) -> dict[str, Any]:
    """Return the value of each option, by the last word of its group's title and its own name."""
    return {
        f"{title.split()[-1].lower()}.{one.name}": getattr(options, one.name)
        for title, group in groups(type(options)).items()
        for one in group
    }


def select(options: Options, kind: type[Group]) -> Group:
    """Return the options of one group among others."""
    return kind(**{name: getattr(options, name) for name in names(kind)})


def check_names(kind: type[Options], given: Mapping[str, Any]) -> None:
    """Refuse a name that is no option.

    Raises:
        ValueError: If there is one; the message lists the near names.
    """
    for name in (one for one in given if one not in names(kind)):
        raise ValueError(f"unknown option {name!r}; {near_names(name, names(kind))}")


def from_keywords(kind: type[Group], given: Mapping[str, Any], function: str) -> Group:
    """Return options from a function's keyword arguments.

    Raises:
        TypeError: If a name is unknown, in Python's words and with the near names.
    """
    for name in (one for one in given if one not in names(kind)):
        hint = near_names(name, names(kind))
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; {hint}")
    return kind(**given)
