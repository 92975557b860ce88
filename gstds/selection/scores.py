"""Scores by name: pure functions of a drawn batch's observation; a picker keeps the high ones.

A score is made of a function of this module and its first arguments: so it can be pickled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, near_names
from gstds.selection.weights import learnability

__all__ = ["SCORES", "NamedScore", "make_score", "score_names", "spectral_score"]

Floats = npt.NDArray[np.floating[Any]]
Batch = Mapping[str, Any]
_SIGNS = ("abs", "skew", "raw")
_LAPLACIANS = ("unnormalized", "normalized")


@dataclass(frozen=True)
class NamedScore:
    """A score with the optional observations that it reads, name -> options."""

    name: str
    score: Callable[[Batch], Floats]
    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __call__(self, batch: Batch) -> Floats:
        """Return the scores (n,) of a batch's rows: high is worth keeping."""
        return self.score(batch)


def spectral_score(
    sign: str = "abs",
    laplacian: str = "unnormalized",
    affinity: str = "auto",
    embedding: str = "laplacian",
    solver: str = "auto",
) -> NamedScore:
    """The Fiedler vector's entry in absolute value: far from the batch's bulk (the paper's)."""
    check_choice("score", sign, _SIGNS)
    check_choice("laplacian", laplacian, _LAPLACIANS)
    check_choice("affinity", affinity, ("auto", "shift", "clamp", "error"))
    check_choice("embedding", embedding, ("laplacian", "random-walk"))
    check_choice("solver", solver, ("auto", "dense", "matrix-free"))
    options = {
        "laplacian": laplacian,
        "sign": sign,
        "affinity": affinity,
        "embedding": embedding,
        "solver": solver,
    }
    return NamedScore("fiedler", _row("spectral_scores"), {"spectral_scores": options})


def _row(name: str, sign: float = 1.0) -> Callable[[Batch], Floats]:
    return partial(_signed_row, name, sign)


def _signed_row(name: str, sign: float, batch: Batch) -> Floats:
    return np.asarray(sign * np.asarray(batch[name], dtype=np.float64))


def fiedler_normalized(**options: Any) -> NamedScore:
    """The same on the normalized Laplacian: far to one side of a true cut."""
    return spectral_score(**{"laplacian": "normalized", **options})


def fiedler_boundary(**options: Any) -> NamedScore:
    """Near zero in the normalized Fiedler vector: between the two sides of the cut."""
    base = spectral_score(**{"laplacian": "normalized", "sign": "abs", **options})
    return NamedScore("fiedler-boundary", _near_zero, base.needs)


def _near_zero(batch: Batch) -> Floats:
    return np.asarray(-np.abs(_signed_row("spectral_scores", -1.0, batch)))


def lowest_degree(affinity: str = "auto") -> NamedScore:
    """Least similar, on average, to the rest of the batch."""
    return NamedScore("lowest-degree", _row("degrees", -1.0), {"degrees": {"affinity": affinity}})


def highest_degree(affinity: str = "auto") -> NamedScore:
    """Most similar, on average, to the rest of the batch."""
    return NamedScore("highest-degree", _row("degrees"), {"degrees": {"affinity": affinity}})


def learnability_score() -> NamedScore:
    """Learner loss minus reference loss: not yet learned, yet can be. Takes a forward."""
    return _learnability("learnability", "learner_losses")


def stale_learnability() -> NamedScore:
    """Learner loss at the last visit minus reference loss: learnability without a forward."""
    return _learnability("stale-learnability", "last_losses")


def _learnability(name: str, losses: str) -> NamedScore:
    needs: dict[str, dict[str, Any]] = {"reference_losses": {}}
    if losses == "learner_losses":
        needs[losses] = {}
    return NamedScore(name, partial(_above_reference, losses), needs)


def _above_reference(losses: str, batch: Batch) -> Floats:
    return learnability(batch[losses], batch["reference_losses"])


def loss_score() -> NamedScore:
    """Learner loss now. Takes a forward."""
    return NamedScore("loss", _row("learner_losses"), {"learner_losses": {}})


def stale_loss() -> NamedScore:
    """Learner loss at the last visit: free."""
    return NamedScore("stale-loss", _row("last_losses"))


def uncertainty() -> NamedScore:
    """Small difference between the two highest probabilities. Takes a forward."""
    return NamedScore("uncertainty", _row("learner_margin", -1.0), {"learner_margin": {}})


def entropy() -> NamedScore:
    """High entropy of the probabilities. Takes a forward."""
    return NamedScore("entropy", _row("learner_entropy"), {"learner_entropy": {}})


def easy_reference() -> NamedScore:
    """Low reference loss: easy for a model that has seen the rest of the data."""
    return NamedScore("easy-reference", _row("reference_losses", -1.0), {"reference_losses": {}})


def high_reference() -> NamedScore:
    """High reference loss: hard for a model that has seen the rest of the data."""
    return NamedScore("high-reference", _row("reference_losses"), {"reference_losses": {}})


def oldest() -> NamedScore:
    """Longest not trained on, those never trained on first."""
    return NamedScore("oldest", _row("age"))


SCORES: dict[str, Callable[..., NamedScore]] = {
    "easy-reference": easy_reference,
    "entropy": entropy,
    "fiedler": spectral_score,
    "fiedler-boundary": fiedler_boundary,
    "fiedler-normalized": fiedler_normalized,
    "high-reference": high_reference,
    "highest-degree": highest_degree,
    "learnability": learnability_score,
    "loss": loss_score,
    "lowest-degree": lowest_degree,
    "oldest": oldest,
    "stale-learnability": stale_learnability,
    "stale-loss": stale_loss,
    "uncertainty": uncertainty,
}


def score_names() -> dict[str, str]:
    """Return every score's name with one line of description."""
    return {n: (inspect.getdoc(f) or "").split("\n")[0] for n, f in SCORES.items()}


def make_score(name: str, **options: Any) -> NamedScore:
    """Return a score by name.

    Raises:
        ValueError: If the name or an option is unknown or out of range.
    """
    factory = SCORES[check_choice("score", name, SCORES)]
    spectral = name.startswith("fiedler")
    known = list(inspect.signature(spectral_score if spectral else factory).parameters)
    for option in options:
        if option not in known:
            raise ValueError(
                f"score {name!r} has no option {option!r}; {near_names(option, known)}"
            )
    return factory(**options)
