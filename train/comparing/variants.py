"""Rows of a comparison that are no plain policies: a policy with some options changed.

``gstds@schedule=linear,keep=.5`` is the policy ``gstds`` on another schedule. A key is an option of
the command line, ``schedule.NAME`` a parameter of the schedule, and ``policy.NAME`` or any other
name a parameter of the policy. The whole text is the row's name, in tables and in MLflow.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gstds.common.checks import near_names
from gstds.policies.registry import policy_class
from gstds.train.running.options import RunConfig

__all__ = ["option_value", "options_of", "split_name", "takes", "variant_config", "variant_name"]

SEPARATOR = "@"
_NOT_HERE = ("policy", "seed", "policy_params", "schedule_params")


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """Return a row's policy and the values of its keys.

    Raises:
        TypeError: If the name is no text.
        ValueError: If a key has no value, or stands twice.
    """
    if not isinstance(name, str):
        raise TypeError(f"policy must be a text, got {name!r}")
    policy, mark, rest = name.rpartition(SEPARATOR)
    if not mark or "=" not in rest:
        return name, {}
    values: dict[str, Any] = {}
    for part in rest.split(","):
        key, equals, text = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key or not text:
            raise ValueError(f"policy {name!r}: write POLICY@KEY=VALUE,KEY=VALUE, got {part!r}")
        if key in values:
            raise ValueError(f"policy {name!r}: {key} stands there twice")
        values[key] = option_value(text)
    return policy, values


def variant_name(policy: str, values: Mapping[str, Any]) -> str:
    """Return the name of the row of a policy with these keys; `split_name` takes it apart."""
    if not values:
        return policy
    return policy + SEPARATOR + ",".join(f"{key}={_text(v)}" for key, v in values.items())


def option_value(text: str) -> Any:
    """Return what a text on the command line stands for: a number, true, false, null, or itself."""
    import yaml

    from gstds.train.running.options import read_yaml

    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} has no readable value") from error


def variant_config(base: RunConfig, name: str) -> RunConfig:
    """Return the configuration of a row: the comparison's, with the row's policy and options.

    Raises:
        ValueError: If the policy or a key is unknown, or a value is out of range.
        TypeError: If a value has the wrong type.
    """
    policy, values = split_name(name)
    return base.with_options(policy=policy, **options_of(base, policy, values))


def options_of(base: RunConfig, policy: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a row's keys change, parameters merged into the comparison's.

    Raises:
        ValueError: If a key is neither an option nor a parameter of the policy.
    """
    known = _options()
    changes = {key: value for key, value in values.items() if key in known}
    for_policy, for_schedule = dict(base.policy_params), dict(base.schedule_params)
    if changes.get("schedule", base.schedule) != base.schedule:
        for_schedule = {}  # another schedule has other parameters
    for key, value in values.items():
        place, _, parameter = key.rpartition(".")
        if place == "schedule":
            for_schedule[parameter] = value
        elif key not in known:
            for_policy[_policy_parameter(policy, key, known)] = value
    return {**changes, "policy_params": for_policy, "schedule_params": for_schedule}


def takes(policy: str, key: str) -> bool:
    """Say whether a policy has a parameter of this name, or a run an option."""
    if key in _options() or key.startswith("schedule."):
        return True
    try:
        _policy_parameter(policy, key, [])
    except ValueError:
        return False
    return True


def _options() -> list[str]:
    return [f.name for f in fields(RunConfig) if f.name not in _NOT_HERE]


def _policy_parameter(policy: str, key: str, options: list[str]) -> str:
    name = key.removeprefix("policy.")
    signature = inspect.signature(policy_class(policy)).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    if name in signature or (free and "." not in name):
        return name
    hint = near_names(name, list(dict.fromkeys([*signature, *options])))
    raise ValueError(f"policy {policy!r} has no parameter {name!r}, and no option has; {hint}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
