"""What a policy is shown of a drawn batch, as pure functions over arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.noise import keyed_bits
from gstds.observation.memory import SampleMemory
from gstds.observation.spec import WHOLE_NUMBERS, Bounds
from gstds.spectral.fiedler import degrees, fiedler_vector, spectral_flops

Array = npt.NDArray[np.float32]


def batch_view(
    bounds: Bounds,
    batch: npt.NDArray[np.int64],
    memory: SampleMemory,
    *,
    seed: int,
    step: int,
    progress: float,
    **values: Any,
) -> dict[str, Array]:
    """Return what a policy is shown of a drawn batch, in the environment and by a `Selector`.

    Args:
        bounds: Bounds and shapes of what is shown, see `gstds.observation.spec.observation_bounds`.
        batch: Sample indices (n,); none after the end of a run.
        memory: What each sample's last update left behind.
        seed: Seed of the run's selection.
        step: The drawn batch's number.
        progress: Share of the run done.
        **values: What else is known of the batch or the run, by name; what is not is shown as 0.

    Returns:
        Fresh float32 arrays by name, finite, within their bounds; short rows padded.
    """
    values |= memory.view(batch, progress) | {
        "valid": np.ones(len(batch), dtype=np.float32),
        "noise": step_noise(seed, step, batch),
        "progress": progress,
    }
    view = {
        name: fitted(values.get(name, np.zeros((0, *shape[1:]))), low, high, shape[0])
        for name, (low, high, shape) in bounds.items()
        if name not in WHOLE_NUMBERS
    }
    for name in set(WHOLE_NUMBERS) & set(bounds):
        view[name] = padded_indices(batch, bounds[name][2][0])  # type: ignore[assignment]
    return view


def padded(values: npt.ArrayLike, n: int) -> Array:
    """Return values (m,) or (m, D) as float32 with zero rows up to n."""
    array = np.asarray(values, dtype=np.float32)
    out = np.zeros((n, *array.shape[1:]), dtype=np.float32)
    out[: len(array)] = array
    return out


def padded_indices(indices: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Return sample indices (m,) with -1 up to n."""
    out = np.full(n, -1, dtype=np.int64)
    out[: len(indices)] = indices
    return out


def fitted(value: npt.ArrayLike, low: Any, high: Any, rows: int) -> Array:
    """Return a fresh, finite, clipped float32 array; a scalar becomes (1,), short rows padded."""
    array = padded(np.atleast_1d(value), rows)
    if not np.isfinite(array).all():  # rare, and the check is cheaper than the mend
        array = np.nan_to_num(array)
    return np.clip(array, np.float32(low), np.float32(high), out=array)


def numbers(values: Any) -> npt.NDArray[Any]:
    """Return an array of whatever holds numbers: tensors on any device, or a list of them."""
    if isinstance(values, list | tuple) and any(hasattr(one, "detach") for one in values):
        values = [numbers(one) for one in values]
    if hasattr(values, "detach"):
        half = values.is_floating_point() and values.element_size() < np.float32().itemsize
        values = (values.detach().float() if half else values.detach()).cpu()
    return np.asarray(values)


def checked_weights(
    weights: npt.ArrayLike,
    n: int,
    high: float,
    *,
    where: str,
    name: str = "action",
    mend: str = "declare a larger max_weight",
) -> Array:
    """Return what a policy answered as loss weights (n,) in float32.

    Args:
        weights: The answer.
        n: Size of a drawn batch.
        high: The largest weight allowed.
        where: Where it was answered, such as ``(step 3)``, for messages.
        name: What the answer is called there.
        mend: What to do about weights that are too large.

    Raises:
        ValueError: If the answer has another shape, a NaN, or a weight outside [0, high].
    """
    where = where and f" {where}"
    try:
        array = numbers(weights)
    except (ValueError, TypeError):  # parts of several lengths, such as (weights, state)
        array = np.empty((), object)
    if array.shape != (n,):
        got = array.shape or type(weights).__name__
        raise ValueError(f"{name} must have shape ({n},), got {got}{where}")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, got {array.dtype}{where}")
    array = array.astype(np.float32)
    legal = np.isfinite(array) & (array >= 0) & (array <= high * (1 + 1e-6))
    if not legal.all():
        bad = int(np.argmin(legal))
        hint = f"; {mend}" if array[bad] > high else ""
        raise ValueError(
            f"{name} must lie in [0, {high:g}], got {array[bad]} at position {bad}{where}{hint}"
        )
    return array


def shard_slices(n: int, shards: int) -> list[slice]:
    """Return the rows of each shard of n samples, in order; their sizes differ by one at most."""
    return [slice(n * i // shards, n * (i + 1) // shards) for i in range(shards)]


def step_noise(seed: int, step: int, indices: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the uniform numbers (n,) in [0, 1) of a step's samples, with 24 bits each.

    Args:
        seed: Seed of the run's selection.
        step: The drawn batch's number.
        indices: Sample indices (n,).
    """
    bits = keyed_bits(seed, step, indices=indices) >> np.uint64(40)
    return bits.astype(np.float64) * 2.0**-24


def spectral_view(
    features: npt.NDArray[np.float32], observe: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], float]:
    """Return the observations of a batch's features, and the operations they take.

    Args:
        features: Unit rows (n, D).
        observe: Optional observations, name -> options.

    Returns:
        Arrays by name, and floating-point operations.
    """
    view: dict[str, Any] = {}
    flops = 0.0
    n, dim = features.shape
    if "features" in observe:
        view["features"] = features
    if "degrees" in observe:
        view["degrees"] = degrees(features, **observe["degrees"]) / n
        flops += 4.0 * n * dim
    if "spectral_scores" in observe:
        options = observe["spectral_scores"]
        spectrum = fiedler_vector(features, **options)
        view |= {
            "spectral_scores": spectrum.scores,
            "lambda2": float(spectrum.lambda2) / max(float(spectrum.lambda_max), 1e-12),
            "eigengap": float(spectrum.eigengap),
            "effective_nodes": float(spectrum.effective_nodes),
        }
        charged = {k: v for k, v in options.items() if k in ("solver", "affinity")}
        flops += spectral_flops(n, dim, iterations=int(spectrum.iterations), **charged)
    return view, flops
