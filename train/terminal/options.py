"""Options on the command line: flags, defaults and help follow from the options' fields."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import Field, fields
from typing import Any

from gstds.options.fields import Options, default_of, groups, kind_of, names

__all__ = ["add_options", "given", "option_words"]

_TYPES: dict[str, Any] = {"int": int, "float": float}


def add_options(
    parser: argparse.ArgumentParser,
    kind: type[Options],
    *,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    defaults: bool = False,
) -> None:
    """Add options to a command, group by group.

    Args:
        parser: The command's.
        kind: The options.
        only: Names of those to add; None for all.
        skip: Names of those to leave out.
        defaults: Let what was not given have its default; otherwise it is not there.
    """
    wanted = [name for name in (names(kind) if only is None else only) if name not in skip]
    for title, group in groups(kind).items():
        chosen = [one for one in group if one.name in wanted]
        if chosen:
            place = parser.add_argument_group(title[0].lower() + title[1:])
            for one in chosen:
                start = default_of(one) if defaults else argparse.SUPPRESS
                place.add_argument(_flag(one.name), default=start, **_argument(one))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _argument(one: Field[Any]) -> dict[str, Any]:
    kind, about, default = kind_of(one), one.metadata, default_of(one)
    if about["flag"]:
        return {"action": "store_true", "help": about["help"]}
    value = " ".join(default) if isinstance(default, tuple) else default
    shown = "" if default in ({}, None) else f" (default: {value})"
    text = {"help": about["help"] + shown}
    if kind == "bool":
        return {"action": argparse.BooleanOptionalAction, **text}
    if kind == "map":
        return {"nargs": "+", "type": _key_value, "metavar": "KEY=VALUE", **text}
    metavar = about["metavar"] or one.name.rpartition("_")[2].upper()
    if kind == "list":
        element = float if "float" in str(one.type) else str
        return {"nargs": "+", "type": element, "metavar": metavar, **text}
    return {"type": _TYPES.get(kind, str), "metavar": metavar, **text}


def _key_value(text: str) -> tuple[str, Any]:
    import yaml

    from gstds.train.running.options import read_yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    try:
        return key.replace("-", "_"), read_yaml(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} has no readable value") from error


def given(arguments: argparse.Namespace, kind: type[Options]) -> dict[str, Any]:
    """Return those options that stand on the command line, or in the file that it names."""
    taken = {"map": dict, "list": tuple}
    kinds = {one.name: kind_of(one) for one in fields(kind) if one.name in names(kind)}
    return {
        name: taken.get(kinds[name], lambda value: value)(value)
        for name, value in vars(arguments).items()
        if name in kinds
    }


def option_words(options: Options, skip: Collection[str] = ()) -> list[str]:
    """Return the options that differ from their defaults, as words of a command line."""
    words: list[str] = []
    for one in fields(options):
        value, flag = getattr(options, one.name), _flag(one.name)
        if one.name not in names(type(options)) or one.name in skip or value == default_of(one):
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, Mapping):
            words += [flag, *(f"{key}={item}" for key, item in value.items())]
        else:
            words += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words
