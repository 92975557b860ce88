"""Instances: the runs that an agent learns on, and those that it is judged on.

An instance is a name and the options in which it differs from its environment's: data set, subset,
learner, seed, noise. A set of instances has a training part and a held-out part that share neither
split nor label noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gstds.common.checks import check_choice, near_names

__all__ = ["INSTANCE_SETS", "Instance", "find_instance", "make_instances"]


@dataclass(frozen=True)
class Instance:
    """One kind of run.

    Args:
        name: Its name within its set.
        options: The options in which it differs from its environment's.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def _digits(split_seed: int, **more: Any) -> dict[str, Any]:
    return {"dataset": "digits", "split_seed": split_seed, **more}


def _fashion(part: int, **more: Any) -> dict[str, Any]:
    return {"dataset": f"gstds.envs.task.small_sets:fashion_{part}", **more}


INSTANCE_SETS: dict[str, tuple[Instance, ...]] = {
    "default": (Instance("default"),),
    "digits-train": (
        Instance("digits-0", _digits(0)),
        Instance("digits-1", _digits(1)),
        Instance("digits-noisy", _digits(2, label_noise=0.2)),
    ),
    "digits-held-out": (Instance("digits-7", _digits(7)),),
    "small-train": (
        Instance("digits-0", _digits(0)),
        Instance("digits-short", _digits(1, epochs=4)),
        Instance("digits-noisy", _digits(2, label_noise=0.2)),
        Instance("fashion-0", _fashion(0)),
        Instance("fashion-1", _fashion(1, limit=800)),
    ),
    "small-held-out": (
        Instance("digits-7", _digits(7, epochs=6)),
        Instance("fashion-2", _fashion(2)),
    ),
    "mixed-train": (
        Instance("digits-0", _digits(0)),
        Instance("digits-noisy", _digits(2, label_noise=0.2)),
        Instance("fashion-0", _fashion(0)),
        Instance("fashion-1", _fashion(1, limit=800)),
        Instance("digits-mlp", _digits(3, learner="mlp")),
        Instance("digits-mlp-short", _digits(4, learner="mlp", epochs=5)),
        Instance("fashion-mlp", _fashion(0, learner="mlp", split_seed=1)),
        Instance("fashion-mlp-noisy", _fashion(1, learner="mlp", label_noise=0.2)),
    ),
    "mixed-held-out": (
        Instance("digits-7", _digits(7, epochs=6)),
        Instance("fashion-2", _fashion(2)),
        Instance("digits-mlp-8", _digits(8, learner="mlp", epochs=6)),
        Instance("fashion-mlp-2", _fashion(2, learner="mlp")),
    ),
}
"""Sets by name. In each pair the held-out part is for choosing an agent, never for its training."""


def make_instances(
    given: str | Sequence[Instance | Mapping[str, Any]] | None,
) -> tuple[Instance, ...]:
    """Return instances by the name of a set, or from mappings of options.

    Args:
        given: A name of `INSTANCE_SETS`; or instances; or mappings of options, each with a ``name``
            if you like; None is the environment's own options alone.

    Raises:
        ValueError: If the name is unknown, there are no instances, or two share a name.
        TypeError: If an instance is no mapping.
    """
    if given is None:
        return INSTANCE_SETS["default"]
    if isinstance(given, str):
        return INSTANCE_SETS[check_choice("instances", given, INSTANCE_SETS)]
    made = tuple(_instance(number, one) for number, one in enumerate(given))
    names = [instance.name for instance in made]
    if not made:
        raise ValueError("instances must hold at least one, got none")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"instances must have names of their own, got {twice!r} twice")
    return made


def _instance(number: int, given: Instance | Mapping[str, Any]) -> Instance:
    if isinstance(given, Instance):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"instances must hold mappings of options, got {given!r}")
    options = dict(given)
    return Instance(str(options.pop("name", number)), options)


def find_instance(instances: Sequence[Instance], wanted: str | int) -> int:
    """Return the position of an instance by name or position.

    Raises:
        ValueError: If there is none; the message lists the near names.
        TypeError: If what is wanted is neither.
    """
    names = [instance.name for instance in instances]
    if isinstance(wanted, str):
        if wanted not in names:
            raise ValueError(f"instance: unknown name {wanted!r}; {near_names(wanted, names)}")
        return names.index(wanted)
    if isinstance(wanted, bool) or not hasattr(wanted, "__index__"):
        raise TypeError(f"instance must be a name or a position, got {wanted!r}")
    if not 0 <= int(wanted) < len(names):
        raise ValueError(f"instance must be in [0, {len(names) - 1}], got {wanted}")
    return int(wanted)
