"""Small parts of Fashion-MNIST that share no image: some for agents to learn on, some to test on.

As data sets they are named ``gstds.envs.task.small_sets:fashion_0`` and so on. Each holds 2,400
images of the published training part, so that a run of an agent's training takes about a second.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

PART = 2400
_SHUFFLE = 20250704


def fashion_part(number: int) -> dict[str, Any]:
    """Return images (2400, 28, 28) and labels (2400,) of part ``number`` of 25.

    Raises:
        ValueError: If there is no such part.
        OSError: If Fashion-MNIST cannot be had.
    """
    images, labels = _fashion()
    if not 0 <= number < len(labels) // PART:
        raise ValueError(f"part must be in [0, {len(labels) // PART - 1}], got {number}")
    order = np.random.Generator(np.random.PCG64(_SHUFFLE)).permutation(len(labels))
    rows = np.sort(order[number * PART : (number + 1) * PART])
    return {"X": images[rows], "y": labels[rows]}


@functools.lru_cache(maxsize=1)
def _fashion() -> tuple[Any, Any]:
    from gstds.envs.data.fashion_mnist import read_fashion

    files = read_fashion()
    return files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"].astype(np.int64)


fashion_0, fashion_1, fashion_2, fashion_3 = (
    functools.partial(fashion_part, number) for number in range(4)
)
