"""What a `Selector` is made with, checked before the first batch: its policy, and its samples."""

from __future__ import annotations

import hashlib
import inspect
import re
import warnings
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gstds.common.checks import check_integer
from gstds.observation.batch_view import numbers, spectral_view
from gstds.observation.spec import asked_of, check_observe
from gstds.policies.base import AnySchedule, Array, Indices, Policy
from gstds.policies.dropin.observed import floats, whole_numbers
from gstds.policies.registry import check_declarations, make_policy, refuse_idle_schedule
from gstds.selection.schedules import make_schedule
from gstds.store.feature_store import LOSSES_NAME, FeatureStore, open_losses


def resolve_policy(
    policy: Policy | str, schedule: AnySchedule, keep: float | None
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
    given = {"keep": keep, "schedule": schedule}
    given = {name: value for name, value in given.items() if value is not None}
    refuse_idle_schedule(
        policy, given, lambda own: f"make_policy({', '.join([repr(policy), *own])})"
    )
    if isinstance(schedule, str) or (schedule is None and keep is not None):
        schedule = make_schedule(schedule or "sigmoid", keep=keep)
    elif keep is not None:
        raise ValueError(
            f"keep must be None beside a schedule that is made already, got {keep!r}; "
            "pass the schedule's name, or make it with make_schedule(name, keep=...)"
        )
    return make_policy(policy, schedule=schedule), policy


def described(policy: Policy) -> dict[str, str]:
    """Return what a policy was made with, name -> text, as far as it keeps that by its name."""
    names = [*inspect.signature(type(policy)).parameters, "schedule", "picker"]
    found = {name: repr(getattr(policy, name)) for name in names if hasattr(policy, name)}
    return {name: re.sub(" at 0x[0-9a-f]+", "", text) for name, text in found.items()}


def check_needs(name: str, policy: Policy) -> dict[str, dict[str, Any]]:
    """Return what a policy needs, name -> options.

    Raises:
        TypeError: If a declaration has the wrong type.
        ValueError: If a need, an option, a value, the largest weight or the normalizer is wrong.
    """
    check_declarations(name, policy)
    return check_observe(f"needs of policy {name!r}", policy.needs)


class Samples:
    """The training samples: what is given of them agrees, and is what the policy needs.

    Args:
        policy: The policy's name, for messages.
        needs: Optional observations of the policy, name -> options.
        told: What a `Selector` was given as store, reference_losses, rows, labels, num_samples,
            num_classes and ids; see there.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the policy needs what is not given, nothing says a number or two things
            disagree, or the rows are not in the store; the message says what to pass.
        StoreError: If the store or the file of losses is missing or damaged.

    Attributes:
        count: Number of samples.
        classes: Number of classes; 1 if nothing says that there are any.
        dim: Width of the features, 0 without a store.
        labels: Class (n,) of each sample, None if they are not given.
    """

    def __init__(self, policy: str, needs: Mapping[str, Mapping[str, Any]], *told: Any) -> None:
        store, losses, rows, labels, count, classes, ids = told
        self._policy, self._needs = policy, needs
        self.labels = None if labels is None else _checked_labels(labels)
        store = FeatureStore.open(store) if isinstance(store, str | Path) else store
        if store is not None and not isinstance(store, FeatureStore):
            raise TypeError(f"store must be a FeatureStore, its folder or None, got {store!r}")
        self._store, self.dim = store, store.dim if store else 0
        self._rows = None if rows is None else whole_numbers("rows", rows)
        if store:
            self._check_rows(store.rows, f"the store {store.path}")
        features = sorted(asked_of(needs, "features"))
        if features and not store:
            raise ValueError(
                f"store: policy {policy!r} needs {', '.join(features)}, and store is None; "
                "pass a FeatureStore or its folder (make one with gstds.prepare_store)"
            )
        self._own_file = store.path / LOSSES_NAME if store else None
        self._note: dict[str, Any] = {}
        self._losses: Array | None = None
        where = ""
        if "reference_losses" in needs:
            self._losses, where = self._find_losses(losses)
        counts = (
            {} if count is None else {"num_samples": check_integer("num_samples", count, low=1)}
        )
        self._ids = None if ids is None else [plain(one) for one in ids]
        for one in self._ids or ():
            if not isinstance(one, Hashable) or type(one).__repr__ is object.__repr__:
                text = "numbers, text or other values that can be looked up and have a repr"
                raise TypeError(f"ids must be {text}, got {one!r:.80}")
        self._positions = {one: at for at, one in enumerate(self._ids or ())}
        if self._ids is not None:
            counts["ids"] = len(self._ids)
            if len(self._positions) < len(self._ids):
                twice = next(one for at, one in enumerate(self._ids) if self._positions[one] != at)
                raise ValueError(f"ids must differ, got {twice!r} twice")
        arrays = {"labels": self.labels, where: self._losses, "rows": self._rows}
        counts |= {name: len(array) for name, array in arrays.items() if array is not None}
        if store and self._rows is None:
            counts["store"] = store.rows
        self.count = _agreed(counts)
        self.classes = self._agreed_classes(classes)

    def _check_rows(self, count: int, where: str) -> None:
        if self._rows is not None and self._rows.max() >= count:
            raise ValueError(
                f"rows must lie in [0, {count - 1}], got {self._rows.max()}: {where} has no more"
            )

    def _find_losses(self, losses: Any) -> tuple[Array, str]:
        """Return the reference loss (n,) of each sample, and what says how many there are."""
        losses = self._own_file if losses is None else losses
        if losses is None:
            raise ValueError(
                f"reference_losses: policy {self._policy!r} needs them; pass a store that holds "
                "them (gstds.prepare_store), or reference_losses=, one for each sample"
            )
        if isinstance(losses, str | Path):
            values, self._note = open_losses(losses)
            self._check_rows(len(values), str(losses))
            return values if self._rows is None else values[self._rows], "the file of losses"
        values = floats("reference_losses", losses)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"reference_losses must be finite (n,), got shape {values.shape}")
        return values, "reference_losses"

    def _agreed_classes(self, given: int | None) -> int:
        highest = None if self.labels is None else int(self.labels.max()) + 1
        own = self._own_file  # says it too, though nothing else of it may be needed
        if given is None and highest is None and own and own.is_file():
            self._note = self._note or open_losses(own)[1]
        said = (given, highest, self._note.get("num_classes"))
        count = next((number for number in said if number is not None), None)
        if count is None and "learner_probabilities" in self._needs:
            raise ValueError(
                "num_classes is not known; pass num_classes=, or labels= of all samples"
            )
        count = check_integer("num_classes", 1 if count is None else count, low=1)
        if highest is not None and highest > count:
            raise ValueError(
                f"num_classes must be above every label, got {count}, and a {highest - 1}"
            )
        return count

    def positions(self, ids: Any) -> Any:
        """Return the positions (n,) among the samples of those with these ids.

        Raises:
            ValueError: If there is no sample of an id.
        """
        if self._ids is None:
            return ids
        named = [plain(one) for one in ([ids] if isinstance(ids, str | bytes) else ids)]
        at = [self._positions.get(one, -1) for one in named]
        for one, where in zip(named, at, strict=True):
            # A float equals the whole number that it was rounded to, and so another sample's id.
            if where < 0 or isinstance(one, float) > isinstance(self._ids[where], float):
                raise ValueError(f"indices: no sample has the id {one!r}; ids= must name them all")
        return np.array(at, dtype=np.int64)

    def ids_digest(self, count: int) -> str:
        """Return a digest of the first ids, "" without ids: a state is of samples in an order."""
        text = repr(self._ids[:count]) if self._ids is not None else ""
        return hashlib.sha256(text.encode()).hexdigest() if text else ""

    def view(self, batch: Indices) -> tuple[dict[str, Any], float]:
        """Return the observations of a batch (n,) that are known, and the operations they take."""
        raw: dict[str, Any] = {}
        flops = 0.0
        if self._store is not None and asked_of(self._needs, "features"):
            rows = batch if self._rows is None else self._rows[batch]
            raw, flops = spectral_view(self._store.gather(rows), self._needs)
        known = {"reference_losses": self._losses, "labels": self.labels}
        return raw | {n: values[batch] for n, values in known.items() if values is not None}, flops


def plain(one: Any) -> Any:
    """Return Python's own value of a number, a text or an id."""
    return one.item() if hasattr(one, "item") else one


def _checked_labels(labels: Any) -> Indices:
    """Return the class (n,) of each sample; names of classes are numbered in their order."""
    values = numbers(labels)
    mend = "; pass the class of each training sample"
    if values.dtype.kind in "UO" and values.ndim == 1 and all(isinstance(v, str) for v in values):
        values = np.unique(values.astype(str), return_inverse=True)[1]
    if values.ndim == 2 and values.shape[1] == 1:
        mend = "; pass labels.reshape(-1)"
    elif values.ndim == 2 and values.dtype.kind in "fiub":
        if values.min() >= 0 and np.allclose(values.sum(1), 1.0, atol=0.01):
            text = f"labels of shape {values.shape} are one-hot or soft: the class of each is the "
            warnings.warn(text + "likeliest, as labels.argmax(1)", stacklevel=5)
            values = values.argmax(1)
        elif np.isin(values, (0, 1)).all():
            mend = ": several classes for a sample are no class; for a multi-label loss leave "
            mend += "labels out and pass num_samples="
    if values.dtype.kind == "f" and np.array_equal(values, values.round()):
        values = values.astype(np.int64)
    elif values.dtype.kind == "f":
        mend = "; for the targets of a regression leave labels out and pass num_samples="
    return whole_numbers("labels", values, mend)


def _agreed(counts: Mapping[str, int]) -> int:
    """Return the number of training samples on which everything that says one agrees."""
    if not counts:
        raise ValueError("num_samples is not known; pass num_samples=, or labels= of all samples")
    first, samples = next(iter(counts.items()))
    for name, count in counts.items():
        if count != samples:
            raise ValueError(
                f"{name} must be of all training samples, and no others: {first} says {samples}, "
                f"{name} {count}; where the store has others too, pass rows=, each sample's row"
            )
    return samples
