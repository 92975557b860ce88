"""Pickers by name: a pure function of `gstds.selection` and the observations that it reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.selection import LOSS_WEIGHTINGS, hybrid, top_k, uniform
from gstds.validation import check_choice, check_fraction, near_names

__all__ = ["PICKERS", "NamedPicker", "make_picker"]

Positions = npt.NDArray[np.int64]
_SCORES = ("abs", "skew", "raw")
_LAPLACIANS = ("unnormalized", "normalized")


@dataclass(frozen=True)
class NamedPicker:
    """A picker with the optional observations that it needs, name -> options."""

    name: str
    pick: Callable[[Mapping[str, Any], int, Any], Positions]
    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __call__(self, batch: Mapping[str, Any], k: int, noise: Any) -> Positions:
        """Return k positions among the batch's rows."""
        return self.pick(batch, k, noise)


def _spectral_options(
    score: str, laplacian: str, affinity: str, embedding: str, solver: str
) -> dict[str, str]:
    check_choice("score", score, _SCORES)
    check_choice("laplacian", laplacian, _LAPLACIANS)
    check_choice("affinity", affinity, ("auto", "shift", "clamp", "error"))
    check_choice("embedding", embedding, ("laplacian", "random-walk"))
    check_choice("solver", solver, ("auto", "dense", "matrix-free"))
    return {
        "laplacian": laplacian,
        "sign": score,
        "affinity": affinity,
        "embedding": embedding,
        "solver": solver,
    }


def hybrid_picker(
    score: str = "abs",
    laplacian: str = "unnormalized",
    affinity: str = "auto",
    embedding: str = "laplacian",
    solver: str = "auto",
    loss_weighting: str = "inverse",
    score_share: float = 0.5,
) -> NamedPicker:
    """Half by highest spectral score, the rest drawn by reference loss (the paper's)."""
    check_choice("loss_weighting", loss_weighting, LOSS_WEIGHTINGS)
    check_fraction("score_share", score_share)

    def pick(batch: Mapping[str, Any], k: int, noise: Any) -> Positions:
        return hybrid(
            batch["spectral_scores"],
            batch["reference_losses"],
            k,
            noise,
            score_share=score_share,
            loss_weighting=loss_weighting,
        )

    options = _spectral_options(score, laplacian, affinity, embedding, solver)
    return NamedPicker("hybrid", pick, {"spectral_scores": options, "reference_losses": {}})


def top_score_picker(
    score: str = "abs",
    laplacian: str = "unnormalized",
    affinity: str = "auto",
    embedding: str = "laplacian",
    solver: str = "auto",
) -> NamedPicker:
    """The highest spectral scores alone."""
    options = _spectral_options(score, laplacian, affinity, embedding, solver)
    return NamedPicker(
        "top-score",
        lambda batch, k, noise: top_k(batch["spectral_scores"], k, noise),
        {"spectral_scores": options},
    )


def uniform_picker() -> NamedPicker:
    """Any, with equal chances."""
    return NamedPicker("uniform", lambda batch, k, noise: uniform(k, noise))


PICKERS: dict[str, Callable[..., NamedPicker]] = {
    "hybrid": hybrid_picker,
    "top-score": top_score_picker,
    "uniform": uniform_picker,
}


def make_picker(name: str, **options: Any) -> NamedPicker:
    """Return a picker by name.

    Raises:
        ValueError: If the name or an option is unknown or out of range.
    """
    factory = PICKERS[check_choice("picker", name, PICKERS)]
    known = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in known:
            raise ValueError(
                f"picker {name!r} has no option {option!r}; {near_names(option, known)}"
            )
    return factory(**options)
