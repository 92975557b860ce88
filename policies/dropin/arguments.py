"""Checks of what a `Selector` is made with: what is wrong is told before the first batch."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_integer, users_code
from gstds.observation.batch_view import spectral_view
from gstds.observation.spec import check_observe
from gstds.policies.base import Policy
from gstds.policies.dropin.observed import NotShownError, numbers
from gstds.policies.registry import check_declarations, follows_schedule, make_policy, policy_class
from gstds.selection.schedules import Schedule, make_schedule
from gstds.store.feature_store import FeatureStore

__all__ = [
    "agreed_classes",
    "agreed_samples",
    "check_device",
    "check_needs",
    "checked_labels",
    "checked_store",
    "checked_whole",
    "policy_code",
    "resolve_policy",
]

Indices = npt.NDArray[np.int64]

_SAMPLE = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]], dtype=np.float32)


# ---------------------------------------------------------------------- the policy


@contextlib.contextmanager
def policy_code(name: str, step: int) -> Iterator[None]:
    """Run a policy's code: whatever it raises is told by the policy's name and the step.

    Raises:
        ValueError: If the code raises; what it raised is the cause.
    """
    try:
        yield
    except NotShownError:  # says all of that itself
        raise
    except Exception as error:
        raise ValueError(
            f"policy {name!r} (step {step}) raised {type(error).__name__}: {error}"
        ) from error


def resolve_policy(
    policy: Policy | str, schedule: Schedule | str | None, keep: float | None
) -> tuple[Policy, str]:
    """Return the policy that was named or made, and its name.

    Raises:
        TypeError: If the policy or the schedule is of another type.
        ValueError: If the policy is unknown, or what is given beside it would change nothing.
    """
    if inspect.isclass(policy):
        raise TypeError(f"policy must be made already, got a class; pass {policy.__name__}(...)")
    if not isinstance(policy, Policy | str):
        raise TypeError(f"policy must be a gstds.Policy or the name of one, got {policy!r}")
    if schedule is not None and not isinstance(schedule, str) and not callable(schedule):
        raise TypeError(
            f"schedule must be a Schedule or the name of one, got {schedule!r}; "
            "the same ratio throughout is schedule='constant', keep=RATIO"
        )
    if isinstance(policy, Policy):
        if schedule is not None or keep is not None:
            raise ValueError(
                f"schedule must be None for a policy that is made already, got {schedule!r}, "
                f"keep {keep!r}; give the schedule to {type(policy).__name__}(...)"
            )
        return policy, type(policy).__name__
    _refuse_an_idle_schedule(policy, schedule, keep)
    if isinstance(schedule, str) or (schedule is None and keep is not None):
        schedule = make_schedule(schedule or "sigmoid", keep=keep)
    return make_policy(policy, schedule=schedule), policy


def _refuse_an_idle_schedule(name: str, schedule: Any, keep: float | None) -> None:
    """Refuse a schedule, or its mean, that would change nothing."""
    given = {"keep": keep, "schedule": schedule}
    idle = [parameter for parameter, value in given.items() if value is not None]
    kind = policy_class(name)
    if idle and not follows_schedule(kind):
        named = inspect.signature(kind).parameters
        own = [p for p in named if "picker" not in p and p != "path"]
        call = ", ".join([repr(name), *(f"{p}=..." for p in own)])
        advice = f"; it is set by make_policy({call})" if own else ""
        raise ValueError(
            f"{idle[0]}: policy {name!r} has a keep ratio of its own and follows no "
            f"schedule, got {given[idle[0]]!r}; leave it out{advice}"
        )
    if keep is not None and schedule is not None and not isinstance(schedule, str):
        raise ValueError(
            f"keep must be None beside a schedule that is made already, got {keep!r}; "
            "pass the schedule's name, or make it with make_schedule(name, keep=...)"
        )


def check_needs(name: str, policy: Policy) -> dict[str, dict[str, Any]]:
    """Return what a policy needs, name -> options.

    Raises:
        TypeError: If a declaration has the wrong type.
        ValueError: If a need, an option, a value, the largest weight or the normalizer is wrong.
    """
    with users_code(f"needs of policy {name!r}"):
        declared = policy.needs
    check_declarations(name, policy)
    who = f"needs of policy {name!r}"
    needs = check_observe(who, declared)
    for need, options in needs.items():
        try:  # what reads options reads features
            spectral_view(_SAMPLE, {need: options} if options else {})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{who}: {need!r} with {options!r}: {error}") from error
    return needs


# ---------------------------------------------------------------------- the data


def checked_store(store: Any) -> FeatureStore | None:
    """Return the store, opened if its folder is given.

    Raises:
        TypeError: If it is of another type.
        StoreError: If it is missing or damaged.
    """
    if isinstance(store, str | Path):
        return FeatureStore.open(store)
    if store is not None and not isinstance(store, FeatureStore):
        raise TypeError(f"store must be a FeatureStore, its folder or None, got {store!r}")
    return store


def checked_whole(parameter: str, values: Any, mend: str = "") -> Indices:
    """Return whole numbers (n,) from 0, n > 0.

    Raises:
        TypeError: If they are no whole numbers.
        ValueError: If there are none, the shape is another, or one is below 0.
    """
    array = numbers(values)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{parameter} must have shape (n,), n > 0, got {array.shape}{mend}")
    if array.dtype.kind not in "iub":
        raise TypeError(
            f"{parameter} must be whole numbers, got {array.dtype} such as {array[0]!s}{mend}"
        )
    if array.min() < 0:
        at = int(np.argmin(array))
        raise ValueError(f"{parameter} must be at least 0, got {array[at]} at position {at}")
    return array.astype(np.int64)


def checked_labels(labels: Any) -> Indices | None:
    """Return the classes (n,) of all training samples, None if they are not given.

    Raises:
        TypeError: If they are no whole numbers.
        ValueError: If there are none, the shape is another, or one is below 0.
    """
    if labels is None:
        return None
    values = numbers(labels)
    mend = "; pass the class of each training sample"
    if values.ndim == 2:
        mend = "; pass " + ("labels.reshape(-1)" if values.shape[1] == 1 else "labels.argmax(1)")
    if values.dtype.kind == "f" and values.ndim == 1 and np.array_equal(values, values.round()):
        values = values.astype(np.int64)
    return checked_whole("labels", values, mend)


def agreed_samples(counts: Mapping[str, int | None]) -> int:
    """Return the number of training samples on which everything given agrees.

    Args:
        counts: Numbers of entries, one for each sample, by name; None where it is not given.

    Raises:
        ValueError: If nothing says the number, or two disagree.
    """
    said = {name: count for name, count in counts.items() if count is not None}
    if not said:
        raise ValueError("num_samples is not known; pass num_samples=, or labels= of all samples")
    first, samples = next(iter(said.items()))
    for name, count in said.items():
        if count != samples:
            raise ValueError(
                f"{name} must be of all training samples, and no others: {first} says {samples}, "
                f"{name} {count}; where the store has others too, pass rows=, each sample's row"
            )
    return samples


def agreed_classes(given: int | None, labels: Indices | None, noted: int | None) -> int:
    """Return the number of classes.

    Args:
        given: ``num_classes``.
        labels: Class (n,) of each sample.
        noted: What the store says.

    Raises:
        ValueError: If nothing says the number, or a label is too high for it.
    """
    highest = None if labels is None else int(labels.max()) + 1
    count = next((n for n in (given, highest, noted) if n is not None), None)
    if count is None:
        raise ValueError("num_classes is not known; pass num_classes=, or labels= of all samples")
    count = check_integer("num_classes", count, low=1)
    if highest is not None and highest > count:
        raise ValueError(f"num_classes must be above every label, got {count}, and a {highest - 1}")
    return count


def check_device(device: Any) -> Any:
    """Return the device.

    Raises:
        ValueError: If there is no device of that name.
    """
    import torch

    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be a torch device, such as 'cpu' or 'cuda:0', got {device!r}: {reason}"
        ) from error
    return device
