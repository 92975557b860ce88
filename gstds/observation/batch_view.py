"""What a policy is shown of a drawn batch, as pure functions over arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.noise import keyed_bits
from gstds.spectral.fiedler import degrees, fiedler_vector, spectral_flops

__all__ = [
    "EMBEDDING_BOUND",
    "LOSS_BOUND",
    "OPTIONAL_OBSERVATIONS",
    "Bounds",
    "checked_weights",
    "fitted",
    "observation_bounds",
    "padded",
    "shard_slices",
    "spectral_view",
    "step_noise",
]

LOSS_BOUND = 100.0
"""Losses in nats are clipped here, so that every bound is finite."""

EMBEDDING_BOUND = 1000.0
"""The learner's embeddings are clipped here, either side of 0."""

OPTIONAL_OBSERVATIONS: dict[str, tuple[str, ...]] = {
    "spectral_scores": ("laplacian", "sign", "affinity", "embedding", "solver"),
    "reference_losses": (),
    "learner_losses": (),
    "learner_margin": (),
    "learner_entropy": (),
    "learner_probabilities": (),
    "learner_embeddings": (),
    "features": (),
    "degrees": ("affinity",),
    "validation_loss": (),
    "validation_accuracy": (),
    "gradient_noise": (),
}
"""What a policy may declare in ``needs``, with the options of each."""

Array = npt.NDArray[np.float32]
Bounds = dict[str, tuple[float, float, tuple[int, ...]]]

_BATCH_BOUNDS = {
    "last_losses": (0.0, LOSS_BOUND),
    "visited": (0.0, 1.0),
    "age": (0.0, 1.0),
    "valid": (0.0, 1.0),
    "noise": (0.0, 1.0),
}
_RUN_BOUNDS = {
    "progress": (0.0, 1.0),
    "budget_left": (0.0, 1.0),
    "keep_ratio": (0.0, 1.0),
    "train_loss": (0.0, LOSS_BOUND),
    "mean_last_loss": (0.0, LOSS_BOUND),
}
_OPTIONAL_BATCH = {
    "spectral_scores": (-1.0, 1.0),
    "reference_losses": (0.0, LOSS_BOUND),
    "learner_losses": (0.0, LOSS_BOUND),
    "learner_margin": (0.0, 1.0),
    "learner_entropy": (0.0, 1.0),
    "degrees": (-1.0, 1.0),
}
_OPTIONAL_RUN = {
    "validation_loss": (0.0, LOSS_BOUND),
    "validation_accuracy": (0.0, 1.0),
    "gradient_noise": (0.0, 1.0),
}
_SPECTRAL_STATISTICS = ("lambda2", "eigengap", "effective_nodes")


def observation_bounds(
    observe: Mapping[str, Any],
    n: int,
    classes: int,
    feature_dim: int | None = None,
    embedding_width: int | None = None,
) -> Bounds:
    """Return each observation's lowest and highest value and its shape, by name.

    Args:
        observe: Optional observations by name.
        n: Size of a drawn batch.
        classes: Number of classes.
        feature_dim: Width of the features, where they are observed.
        embedding_width: Width of the learner's embeddings, where they are observed.
    """
    batch = _BATCH_BOUNDS | {k: v for k, v in _OPTIONAL_BATCH.items() if k in observe}
    run = _RUN_BOUNDS | {k: v for k, v in _OPTIONAL_RUN.items() if k in observe}
    if "spectral_scores" in observe:
        run |= dict.fromkeys(_SPECTRAL_STATISTICS, (0.0, 1.0))
    bounds: Bounds = {name: (low, high, (n,)) for name, (low, high) in batch.items()}
    bounds |= {name: (low, high, (1,)) for name, (low, high) in run.items()}
    bounds["labels"] = (0.0, float(classes - 1), (n,))
    if "features" in observe and feature_dim:
        bounds["features"] = (-1.0, 1.0, (n, feature_dim))
    if "learner_probabilities" in observe:
        bounds["learner_probabilities"] = (0.0, 1.0, (n, classes))
    if "learner_embeddings" in observe and embedding_width:
        bounds["learner_embeddings"] = (-EMBEDDING_BOUND, EMBEDDING_BOUND, (n, embedding_width))
    return dict(sorted(bounds.items()))


def padded(values: npt.ArrayLike, n: int) -> Array:
    """Return values (m,) or (m, D) as float32 with zero rows up to n."""
    array = np.asarray(values, dtype=np.float32)
    out = np.zeros((n, *array.shape[1:]), dtype=np.float32)
    out[: len(array)] = array
    return out


def fitted(value: npt.ArrayLike, low: Any, high: Any, rows: int) -> Array:
    """Return a fresh, finite, clipped float32 array; a scalar becomes (1,), short rows padded."""
    array = padded(np.atleast_1d(value), rows)
    if not np.isfinite(array).all():  # rare, and the check is cheaper than the mend
        array = np.nan_to_num(array)
    return np.clip(array, np.float32(low), np.float32(high), out=array)


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
    array = np.asarray(weights)
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {array.shape} {where}")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, got {array.dtype} {where}")
    array = array.astype(np.float32)
    legal = np.isfinite(array) & (array >= 0) & (array <= high * (1 + 1e-6))
    if not legal.all():
        bad = int(np.argmin(legal))
        hint = f"; {mend}" if array[bad] > high else ""
        raise ValueError(
            f"{name} must lie in [0, {high:g}], got {array[bad]} at position {bad} {where}{hint}"
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
        options = dict(observe["spectral_scores"])
        spectrum = fiedler_vector(features, **options)
        scale = max(float(spectrum.lambda_max), 1e-12)
        view["spectral_scores"] = spectrum.scores
        view["lambda2"] = float(spectrum.lambda2) / scale
        view["eigengap"] = float(spectrum.eigengap)
        view["effective_nodes"] = float(spectrum.effective_nodes)
        flops += spectral_flops(
            n,
            dim,
            solver=options.get("solver", "auto"),
            iterations=int(spectrum.iterations),
            laplacian=options.get("laplacian", "unnormalized"),
            affinity=options.get("affinity", "auto"),
        )
    return view, flops
