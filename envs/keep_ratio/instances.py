"""Instances: the runs that an agent learns on, and those that it is judged on.

An instance is a name and the options in which it differs from its environment's: data set, subset,
learner, seed, noise. A set of instances has a training part and a held-out part that share neither
split nor label noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gstds.common.checks import check_choice, check_integer


class Instance(NamedTuple):
    """One kind of run.

    Attributes:
        name: Its name within its set.
        options: The options in which it differs from its environment's.
    """

    name: str
    options: Mapping[str, Any] = {}


def _digits(name: str, split_seed: int, **more: Any) -> Instance:
    return Instance(f"digits-{name}", {"dataset": "digits", "split_seed": split_seed, **more})


def _fashion(name: str, part: int, **more: Any) -> Instance:
    dataset = f"gstds.envs.task.small_sets:fashion_{part}"
    return Instance(f"fashion-{name}", {"dataset": dataset, **more})


_NOISY = _digits("noisy", 2, label_noise=0.2)
_FASHION = (_fashion("0", 0), _fashion("1", 1, limit=800))
_SMALL_HELD_OUT = (_digits("7", 7, epochs=6), _fashion("2", 2))

INSTANCE_SETS: dict[str, tuple[Instance, ...]] = {
    "default": (Instance("default"),),
    "digits-train": (_digits("0", 0), _digits("1", 1), _NOISY),
    "digits-held-out": (_digits("7", 7),),
    "small-train": (_digits("0", 0), _digits("short", 1, epochs=4), _NOISY, *_FASHION),
    "small-held-out": _SMALL_HELD_OUT,
    "mixed-train": (
        _digits("0", 0),
        _NOISY,
        *_FASHION,
        _digits("mlp", 3, learner="mlp"),
        _digits("mlp-short", 4, learner="mlp", epochs=5),
        _fashion("mlp", 0, learner="mlp", split_seed=1),
        _fashion("mlp-noisy", 1, learner="mlp", label_noise=0.2),
    ),
    "mixed-held-out": (
        *_SMALL_HELD_OUT,
        _digits("mlp-8", 8, learner="mlp", epochs=6),
        _fashion("mlp-2", 2, learner="mlp"),
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
    if given is None or isinstance(given, str):
        name = "default" if given is None else given
        return INSTANCE_SETS[check_choice("instances", name, INSTANCE_SETS)]
    made: list[Instance] = []
    for number, one in enumerate(given):
        if not isinstance(one, Instance):
            if not isinstance(one, Mapping):
                raise TypeError(f"instances must hold mappings of options, got {one!r}")
            options = dict(one)
            one = Instance(str(options.pop("name", number)), options)
        if any(one.name == other.name for other in made):
            raise ValueError(f"instances must have names of their own, got {one.name!r} twice")
        made.append(one)
    if not made:
        raise ValueError("instances must hold at least one, got none")
    return tuple(made)


def find_instance(instances: Sequence[Instance], wanted: str | int) -> int:
    """Return the position of an instance by name or position.

    Raises:
        ValueError: If there is none; the message lists the near names.
        TypeError: If what is wanted is neither.
    """
    if isinstance(wanted, str):
        names = [instance.name for instance in instances]
        return names.index(check_choice("instance", wanted, names))
    return check_integer("instance", wanted, high=len(instances) - 1)
