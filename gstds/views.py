"""What a policy is shown of a drawn batch, as pure functions over arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.spectral import degrees, fiedler_vector, spectral_flops

__all__ = ["spectral_view"]


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
