"""Scores by name: pure functions of a drawn batch's observation; a picker keeps the high ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, near_names

Floats = npt.NDArray[np.floating[Any]]

SIGNS = ("abs", "skew", "raw")
SPECTRAL = {
    "sign": SIGNS,
    "laplacian": ("unnormalized", "normalized"),
    "affinity": ("auto", "shift", "clamp", "error"),
    "embedding": ("laplacian", "random-walk"),
    "solver": ("auto", "dense", "matrix-free"),
}
"""What may be asked of the Fiedler vector; the first is what is, unless told."""

_DEFAULTS = {option: choices[0] for option, choices in SPECTRAL.items()}
_NORMALIZED = {**_DEFAULTS, "laplacian": "normalized"}
_OF_DEGREES = {"affinity": "auto"}
_ALWAYS_SHOWN = ("last_losses", "age")
_STALE = "last_losses"


@dataclass(frozen=True)
class NamedScore:
    """A score: a row of the observation, its sign, and what is taken off it.

    Attributes:
        row: The observation that it reads.
        text: A line about it.
        sign: What it is multiplied by: 1 or -1.
        less: Another observation, which is taken off the row.
        size: The row counts in absolute value.
        options: What is asked of the row.
    """

    row: str
    text: str
    sign: float = 1.0
    less: str = ""
    size: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> dict[str, Mapping[str, Any]]:
        """The optional observations that it reads, name -> options."""
        rows: dict[str, Mapping[str, Any]] = {self.less: {}} if self.less else {}
        rows[self.row] = self.options
        return {name: asked for name, asked in rows.items() if name not in _ALWAYS_SHOWN}

    def __call__(self, batch: Mapping[str, Any]) -> Floats:
        """Return the scores (n,) of a batch's rows: high is worth keeping."""
        values = np.asarray(batch[self.row], dtype=np.float64)
        if self.size:
            values = np.abs(values)
        if self.less:
            values = values - np.asarray(batch[self.less], dtype=np.float64)
        values = np.asarray(self.sign * values)
        return _unseen_first(values, batch) if self.row == _STALE else values


def _unseen_first(values: Floats, batch: Mapping[str, Any]) -> Floats:
    """Return scores (n,) of stale losses, those of samples never seen above all others.

    Among themselves they keep their distances: what they show is the mean of the seen.
    """
    unseen = np.asarray(batch["visited"]) < 0.5
    if unseen.any() and not unseen.all():
        values = values.copy()
        highest = np.nextafter(values[~unseen].max(), np.inf)
        values[unseen] += max(0.0, highest - values[unseen].min())
    return values


# Learnability: RHO-LOSS (arXiv 2206.07137), JEST (arXiv 2406.17711).
SCORES = {
    "easy-reference": NamedScore(
        "reference_losses",
        "Low reference loss: easy for a model that has seen the rest of the data.",
        sign=-1.0,
    ),
    "entropy": NamedScore("learner_entropy", "High entropy of the probabilities. Takes a forward."),
    "fiedler": NamedScore(
        "spectral_scores",
        "The Fiedler vector's entry in absolute value: far from the batch's bulk (the paper's).",
        options=_DEFAULTS,
    ),
    "fiedler-boundary": NamedScore(
        "spectral_scores",
        "Near zero in the normalized Fiedler vector: between the two sides of the cut.",
        sign=-1.0,
        size=True,
        options=_NORMALIZED,
    ),
    "fiedler-normalized": NamedScore(
        "spectral_scores",
        "The same on the normalized Laplacian: far to one side of a true cut.",
        options=_NORMALIZED,
    ),
    "high-reference": NamedScore(
        "reference_losses",
        "High reference loss: hard for a model that has seen the rest of the data.",
    ),
    "highest-degree": NamedScore(
        "degrees", "Most similar, on average, to the rest of the batch.", options=_OF_DEGREES
    ),
    "learnability": NamedScore(
        "learner_losses",
        "Learner loss minus reference loss: not yet learned, yet can be. Takes a forward.",
        less="reference_losses",
    ),
    "loss": NamedScore("learner_losses", "Learner loss now. Takes a forward."),
    "lowest-degree": NamedScore(
        "degrees",
        "Least similar, on average, to the rest of the batch.",
        sign=-1.0,
        options=_OF_DEGREES,
    ),
    "oldest": NamedScore("age", "Longest not trained on, those never trained on first."),
    "stale-learnability": NamedScore(
        "last_losses",
        "Learner loss at the last visit minus reference loss, without a forward; unseen first.",
        less="reference_losses",
    ),
    "stale-loss": NamedScore("last_losses", "Learner loss at the last visit: free; unseen first."),
    "uncertainty": NamedScore(
        "learner_margin",
        "Small difference between the two highest probabilities. Takes a forward.",
        sign=-1.0,
    ),
}


def score_names() -> dict[str, str]:
    """Return every score's name with one line of description."""
    return {name: score.text for name, score in SCORES.items()}


def make_score(name: str, **options: Any) -> NamedScore:
    """Return a score by name, or by a sign rule of the Fiedler vector, which is then the score.

    Raises:
        ValueError: If the name or an option is unknown or out of range.
    """
    if name in SIGNS:
        name, options = "fiedler", {"sign": name, **options}
    score = SCORES[check_choice("score", name, SCORES)]
    for option, value in options.items():
        if option not in score.options:
            hint = near_names(option, score.options)
            raise ValueError(f"score {name!r} has no option {option!r}; {hint}")
        if score.row == "spectral_scores":
            check_choice("score" if option == "sign" else option, value, SPECTRAL[option])
    return replace(score, options={**score.options, **options})
