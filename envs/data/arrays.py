"""Data sets that bring arrays: ``npz:PATH`` and a user's own ``module:function``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gstds.common.checks import import_attribute, users_code
from gstds.common.files import sha256
from gstds.common.npz import NpzError, array_names, read_arrays
from gstds.envs.data.images import ArrayImages, ImageSource, SequenceImages
from gstds.envs.data.raw_data import Content, check_labels, make_content

__all__ = ["read_function", "read_npz"]

_KEYS = ("X", "y", "X_test", "y_test", "class_names")
_LAYOUTS = (
    _KEYS[:4],
    ("x_train", "y_train", "x_test", "y_test"),  # Keras
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
    ("images", "labels", "test_images", "test_labels"),
    ("x", "y", "x_test", "y_test"),
)
"""How files name the images, their labels, and those of the test part."""


def read_npz(path: str | Path) -> Content:
    """Read arrays ``X``, ``y`` and, if they are there, ``X_test``, ``y_test``, ``class_names``.

    The first four may have the names of Keras' files (``x_train`` and so on), of MedMNIST's
    (``train_images``, ``train_labels`` and so on), or ``images`` and ``labels``.

    Args:
        path: A file of `numpy.savez` or `numpy.savez_compressed`.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If ``X`` is not uint8 or ``y`` not whole numbers.
        ValueError: If the file is damaged, a key is missing or shapes do not fit together.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"npz:{path}: there is no such file; give the path of an .npz file")
    return _from_mapping(f"npz:{path}", _load_npz(file))


def _load_npz(file: Path) -> dict[str, Any]:
    try:
        there = array_names(file)
        layout = next((names for names in _LAYOUTS if set(names[:2]) <= set(there)), None)
        if layout is None:
            return dict.fromkeys(there)  # enough to say what is missing
        ours = dict(zip((*layout, _KEYS[4]), _KEYS, strict=True))
        return {ours[name]: array for name, array in read_arrays(file, ours).items()}
    except (NpzError, OSError) as error:
        raise ValueError(
            f"npz:{error}; write it with numpy.savez(path, X=images, y=labels), no object arrays"
        ) from error


def read_function(name: str) -> Content:
    """Call a user's ``module:function`` and read the mapping that it returns.

    Args:
        name: For example ``my_data:load``; the module may lie in the current folder. The mapping
            has the keys of `read_npz`; ``X`` and ``X_test`` may be lazily indexed sequences, of
            which nothing but the first image of ``X`` is read; ``fingerprint`` (a key, or an
            attribute of ``X``) then says which content it is.

    Raises:
        TypeError: If the function returns no mapping, or arrays of a wrong type.
        ValueError: If the module or function is not there, or shapes do not fit together.
    """
    if os.getcwd() not in sys.path:  # for good: what the module imports later is found as well
        sys.path.append(os.getcwd())
    function = import_attribute(f"dataset {name!r}", name)
    with users_code(f"dataset {name!r}"):
        answer = function()
    if not isinstance(answer, Mapping):
        raise TypeError(
            f"{name} must return a mapping with the keys 'X' and 'y', got {type(answer).__name__}"
        )
    return _from_mapping(name, answer)


def _from_mapping(where: str, arrays: Mapping[str, Any]) -> Content:
    _check_keys(where, arrays)
    names = arrays.get("class_names")
    first = _source(where, arrays, "X", "y", None)
    second = None
    if "X_test" in arrays:
        second = _source(where, arrays, "X_test", "y_test", first.shape)
    return make_content(where, first, arrays["y"], second, arrays.get("y_test"), class_names=names)


def _check_keys(where: str, arrays: Mapping[str, Any]) -> None:
    missing = [key for key in ("X", "y") if key not in arrays]
    if missing:
        found = ", ".join(sorted(map(str, arrays))) or "nothing"
        raise ValueError(f"{where}: {' and '.join(missing)} missing; found {found}")
    if ("X_test" in arrays) != ("y_test" in arrays):
        alone, other = ("X_test", "y_test") if "X_test" in arrays else ("y_test", "X_test")
        raise ValueError(f"{where}: {alone} stands without {other}; give both or neither")


def _source(
    where: str,
    arrays: Mapping[str, Any],
    key: str,
    label_key: str,
    shape: tuple[int, int, int] | None,
) -> ImageSource:
    images = arrays[key]
    try:
        if isinstance(images, np.ndarray):
            return ArrayImages(images, name=key)
        return _sequence(images, key, check_sized(images, key, arrays[label_key]), arrays, shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error


def check_sized(images: Any, key: str, labels: Any) -> Any:
    """Return the checked labels of a lazily indexed sequence, before any item is read."""
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise TypeError(
            f"{key} must be a uint8 array or a sequence with __len__ and __getitem__, "
            f"got {type(images).__name__}"
        )
    return check_labels(key.replace("X", "y"), labels, len(images))


def _sequence(
    images: Any,
    key: str,
    labels: Any,
    arrays: Mapping[str, Any],
    shape: tuple[int, int, int] | None,
) -> SequenceImages:
    given = arrays.get("fingerprint", getattr(images, "fingerprint", ""))
    digest = sha256(f"{key}|{len(images)}|{given}|", labels.tobytes())
    return SequenceImages(images, digest, shape, key)
