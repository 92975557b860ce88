"""How a unit row is stored: two bytes a number, or one.

An int8 row keeps its direction alone: the row divided by its largest entry, times 127, rounded.
Reading scales it to unit length again, so that no scale is stored. An entry is off by at most half
a step, 1/254 of the row's largest entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.store.format import DTYPES

_STEPS = 127.0


def encode(rows: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return unit rows (n, D) as they are stored; a zero row stays zero."""
    if dtype != DTYPES["int8"]:
        return rows.astype(dtype)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    stored: npt.NDArray[Any] = np.rint(scaled * _STEPS).astype(dtype)
    return stored


def decode(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return stored rows (n, D) as float32, those of int8 as unit rows: a fresh array."""
    import torch

    # torch widens short numbers several times faster than numpy does.
    wide = torch.from_numpy(stored).float()
    if stored.dtype == DTYPES["int8"]:
        wide /= torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_(min=1.0)
    values: npt.NDArray[np.float32] = wide.numpy()
    return values
