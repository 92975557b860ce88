"""State that is declared, not written by hand; and checkpoints of it.

A class of `Stateful` names the attributes that it is made of, ``state = ("_steps", "_mean")``, and
has ``state_dict`` and ``load_state_dict``. A checkpoint holds such a nested state as safetensors
(arrays) plus JSON (the rest), written atomically: the pair ``step-N.safetensors`` and
``step-N.json``. The JSON is written last and holds the digest of the arrays, so that a pair is
whole or is not there, and its own seal.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import logging
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gstds.common.checks import near_names
from gstds.common.checksummed_json import read_sealed, sealed
from gstds.common.files import sha256, write_bytes, write_text

if TYPE_CHECKING:
    import torch


_log = logging.getLogger(__name__)

_KEPT = 2
_ARRAY = "__array__"
_TENSOR = "__tensor__"
_MARKS = ({_ARRAY}, {_TENSOR})
_PAIRS = "__pairs__"
_PLAIN = (bool, int, float, complex, str, bytes, bytearray, array, np.generic, type(None))
_CACHES = (functools.cached_property,)
_NONE = object()
_SEQUENCES = (list, tuple, set, frozenset, deque)


class Stateful:
    """What remembers, and says what: each class its own, beside that of the classes it inherits.

    An attribute may hold numbers, text, arrays, tensors, generators of numpy, torch and `random`,
    whatever has the pair of methods itself, and lists, tuples, sets, deques, dicts of those. It may
    be None at any time, and else keeps its kind. In the state it goes by its name without the
    leading underscore.

    Attributes:
        state: Names of the attributes that a resumed run goes on with, as a tuple.
    """

    state: Any = ()

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, as arrays and JSON-able values: a copy.

        Raises:
            AttributeError: If the state names an attribute that is not there.
        """
        for name in _declared(self):
            if not hasattr(self, name):
                who = f"{type(self).__name__} has no attribute {name!r}, which its state names"
                raise AttributeError(f"{who}; {near_names(name, vars(self))}; set it in reset")
        return {name.lstrip("_"): _saved(getattr(self, name)) for name in _declared(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Take up what `state_dict` returned.

        Raises:
            KeyError: If an entry is missing; then nothing is taken up.
            ValueError: If an entry is of another kind; the message names it.
        """
        found = {name: state[name.lstrip("_")] for name in _declared(self)}
        for name, saved in found.items():
            setattr(self, name, _taken_up(getattr(self, name, None), saved, name.lstrip("_")))


def entries(one: Stateful) -> list[str]:
    """Return the names of the entries that a state of this must have."""
    return [name.lstrip("_") for name in _declared(one)]


def _declared(one: Stateful) -> list[str]:
    found = [vars(kind).get("state") for kind in reversed(type(one).__mro__)]
    return [name for names in found if isinstance(names, tuple | list) for name in names]


def fingerprints(one: Stateful) -> dict[str, Any]:
    """Return what each attribute that is not declared as state holds now, to be compared later."""
    kind = type(one)
    if kind.state_dict is not Stateful.state_dict:  # written by hand: it says itself what it is
        return {}
    told = {*_declared(one)} | {
        name for base in kind.__mro__ for name, v in vars(base).items() if isinstance(v, _CACHES)
    }
    return {name: _fingerprint(value) for name, value in vars(one).items() if name not in told}


def undeclared_changes(before: Mapping[str, Any], one: Stateful) -> list[str]:
    """Return the attributes that changed since `fingerprints` and are not declared as state."""
    return [name for name, value in fingerprints(one).items() if before.get(name, _NONE) != value]


def _fingerprint(value: Any, depth: int = 6) -> Any:
    if not isinstance(value, Stateful) and (pair := _pair(value)):
        with contextlib.suppress(Exception):  # it is the user's
            value = pair[0]()
    if _is_tensor(value):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if depth <= 0 or isinstance(value, _PLAIN):  # deep, or in a circle
        return repr(value) if isinstance(value, _PLAIN) else type(value).__name__
    if isinstance(value, Mapping):
        return [(repr(key), _fingerprint(v, depth - 1)) for key, v in value.items()]
    if isinstance(value, _SEQUENCES):
        return [_fingerprint(v, depth - 1) for v in value]
    if hasattr(value, "__dict__") and not callable(value):
        return [type(value).__name__, _fingerprint(vars(value), depth - 1)]
    return type(value).__name__


def _pair(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """Return how the state of what is not made anew from it is read, and taken up."""
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return (lambda: bits.state), functools.partial(setattr, bits, "state")
    if isinstance(value, random.Random):
        return value.getstate, lambda saved: value.setstate((saved[0], tuple(saved[1]), saved[2]))
    if hasattr(value, "manual_seed") and hasattr(value, "set_state"):  # torch's
        return value.get_state, value.set_state
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return value.state_dict, value.load_state_dict
    return None


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "cpu")  # a file has the first, too


def _saved(value: Any) -> Any:
    if isinstance(value, Stateful):
        return value.state_dict()
    if pair := _pair(value):
        value = pair[0]()
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _saved(v) for key, v in value.items()}
        return {_PAIRS: [[_saved(key), _saved(v)] for key, v in value.items()]}
    if isinstance(value, _SEQUENCES):
        return [_saved(v) for v in value]
    if _is_tensor(value):
        return value.detach().clone()
    return np.array(value) if isinstance(value, bytearray | array | np.ndarray) else value


def _restored(saved: Any) -> Any:
    """Return a copy of what `_saved` returned, as far as that tells by itself what it was."""
    if isinstance(saved, dict):
        if set(saved) == {_PAIRS}:
            pairs = [(_restored(key), _restored(v)) for key, v in saved[_PAIRS]]
            return {tuple(k) if isinstance(k, list) else k: v for k, v in pairs}
        return {key: _restored(v) for key, v in saved.items()}
    if isinstance(saved, list | tuple):
        return [_restored(v) for v in saved]
    return copy.deepcopy(saved)


def _kind(value: Any) -> str:
    kinds: dict[str, Any] = {"text": str, "dict": dict, "list": _SEQUENCES}
    return next((name for name, kind in kinds.items() if isinstance(value, kind)), "number")


def _taken_up(like: Any, saved: Any, name: str) -> Any:
    """Return the value that an attribute is to have, from what it has now and what was saved."""
    if pair := _pair(like):
        pair[1](saved if isinstance(like, Stateful) else _restored(saved))
        return like
    value = _restored(saved)
    if like is None or value is None:
        return value
    if isinstance(like, np.ndarray) and isinstance(value, list):
        value = np.array(value, dtype=like.dtype)
    if isinstance(like, bytearray | array):
        like = copy.copy(like)[:0]
        like.extend(np.asarray(value).tolist())
        return like
    if _kind(like) != _kind(value):
        raise ValueError(f"the state's {name} must be a {_kind(like)}, got {value!r:.80}")
    if isinstance(like, dict):
        if any(map(_pair, like.values())) and set(like) != set(value):
            raise ValueError(f"the state's {name} has {sorted(value)}, not {sorted(like)}")
        value = {key: _taken_up(like.get(key), v, f"{name}/{key}") for key, v in value.items()}
        filled = copy.copy(like)  # one with a default keeps it
        filled.clear()
        filled.update(value)
        return filled
    if isinstance(like, _SEQUENCES):
        return _sequence(like, value, name)
    if _is_tensor(like) and like.shape == value.shape:  # laid out in memory as it was
        return like.detach().clone().to(value.dtype).copy_(value)
    return value


def _sequence(like: Any, value: list[Any], name: str) -> Any:
    record, same = isinstance(like, tuple) and type(like) is not tuple, len(like) == len(value)
    if not same and (record or any(map(_pair, like))):
        raise ValueError(f"the state is of {len(value)} {name}, not of {len(like)}")
    if same and (record or any(_pair(v) or _is_tensor(v) for v in like)):
        value = [_taken_up(*both, name) for both in zip(like, value, strict=True)]
    if record:
        return type(like)(*value)
    return deque(value, like.maxlen) if isinstance(like, deque) else type(like)(value)


class StateError(ValueError):
    """A checkpoint is damaged."""


def _changed(value: Any, leaf: Callable[[Any, str], Any], where: str) -> Any:
    """Return nested dicts, lists and tuples with all else, marked dicts too, made another."""
    if isinstance(value, Mapping) and set(value) not in _MARKS:
        return {
            _changed(key, leaf, where): _changed(inner, leaf, f"{where}/{key}")
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        parts = [_changed(part, leaf, f"{where}/{i}") for i, part in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    return leaf(value, where)


def portable(value: Any, where: str = "state") -> Any:
    """Return a deep copy with tensors in place of arrays, and Python's own numbers.

    ``torch.load`` takes it with ``weights_only=True``. A tensor of one's own is marked, so that
    `restored` tells it from an array.

    Args:
        value: Nested dicts, lists and tuples of arrays, tensors and JSON-able values.
        where: What it is called, for messages.

    Raises:
        TypeError: If something else is among them; the message says where.
    """
    return _changed(value, _to_portable, where)


def _to_portable(value: Any, where: str) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return {_TENSOR: value.detach().cpu().clone()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value, order="C"))
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(
            f"{where} must be an array of numbers, a tensor or a JSON value, got {value!r:.80}"
        )
    return value


def restored(value: Any) -> Any:
    """Return a deep copy of what `portable` returned, with arrays in place of tensors again."""
    return _changed(value, _to_restored, "state")


def _to_restored(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return value[_TENSOR].detach().clone()
    if _is_tensor(value):
        return value.detach().cpu().numpy().copy()
    return value.copy() if isinstance(value, np.ndarray) else value


def save_state(folder: str | Path, step: int, state: dict[str, Any]) -> None:
    """Write a checkpoint and drop all but the last two.

    Args:
        folder: Where checkpoints live.
        step: Drawn batches done.
        state: Nested dicts and lists of arrays, tensors and JSON-able values.

    Raises:
        TypeError: If a value is none of these; the message names its entry. Nothing is written.
        OSError: If the disk is full or the folder is not writable; older checkpoints stay.
    """
    from safetensors.torch import save as save_tensors

    tensors: dict[str, torch.Tensor] = {}

    def apart(value: Any, path: str) -> Any:
        told = _to_portable(value, f"state_dict: entry {path.lstrip('/')!r} cannot be saved, it")
        mark = _TENSOR if isinstance(told, dict) else _ARRAY
        tensor = told[_TENSOR] if isinstance(told, dict) else told
        if not _is_tensor(tensor):
            return told
        tensors[path] = tensor.contiguous()
        return {mark: path}

    skeleton = _changed(state, apart, "")
    data = save_tensors(tensors)
    folder = Path(folder)
    stem = folder / f"step-{step:09d}"
    write_bytes(stem.with_suffix(".safetensors"), data)
    note = {"version": 1, "sha256": sha256(data), "state": skeleton}
    write_text(stem.with_suffix(".json"), json.dumps(sealed(note)))
    for old in _notes(folder)[:-_KEPT]:
        for path in (old, old.with_suffix(".safetensors")):
            with contextlib.suppress(OSError):
                path.unlink()


def _notes(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.json"))


def latest_state(folder: str | Path) -> dict[str, Any] | None:
    """Return the newest whole checkpoint's state, None if there is none.

    Raises:
        StateError: If there are checkpoints and all are damaged; the message names the newest.
    """
    folder = Path(folder)
    problem = None
    for note in reversed(_notes(folder)):
        try:
            return _load(note.with_suffix(""))
        except StateError as error:
            _log.warning("%s; the one before it is taken", error)
            problem = problem or error
    if problem:
        raise StateError(
            f"every checkpoint in {folder} is damaged, the newest: {problem}; "
            "delete the folder to start over"
        )
    return None


def _load(stem: Path) -> dict[str, Any]:
    from safetensors.torch import load as load_tensors

    try:
        note = read_sealed(stem.with_suffix(".json"))
        if note["version"] != 1:
            raise ValueError(f"it is of version {note['version']!r}, not 1")
        data = stem.with_suffix(".safetensors").read_bytes()
        if sha256(data) != note["sha256"]:
            raise ValueError("it is damaged, its checksum does not match")
        tensors = load_tensors(data)

        def whole(value: Any, _: str) -> Any:
            if not isinstance(value, dict):
                return value
            mark, path = next(iter(value.items()))
            return tensors[path] if mark == _TENSOR else tensors[path].numpy()

        return dict(_changed(note["state"], whole, ""))
    except Exception as error:
        raise StateError(f"checkpoint {stem} cannot be read: {error}") from error


def all_finite(tensors: dict[str, torch.Tensor]) -> bool:
    """Return whether no tensor holds a NaN or an infinity."""
    import torch

    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def state_digest(
    tensors: Mapping[str, torch.Tensor], head: str = "{name} {shape} {dtype}\n"
) -> str:
    """Return the SHA-256 of tensors, one by one in name order: a head, and the bytes."""
    import torch

    def parts() -> Iterator[str | bytes]:
        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()
            yield head.format(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype)
            yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()

    return sha256(parts=parts())
