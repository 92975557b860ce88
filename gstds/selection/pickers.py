"""Scores and pickers by name.

A score is a pure function of a drawn batch's observation; a picker keeps the high ones. A picker is
a function of `gstds.selection.weights` and the observations that it reads.

A picker that goes by a score takes ``score``: a name of `SCORES`, or a sign
rule of the Fiedler vector (``abs``, ``skew``, ``raw``), which is then the score. Further options
that no picker knows are the score's, such as ``laplacian``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gstds.common.checks import check_choice, check_known
from gstds.selection import weights
from gstds.selection.weights import Batch, Floats, Positions

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
        values = np.abs(values) if self.size else values
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


def make_score(name: str, **options: Any) -> NamedScore:
    """Return a score by name, or by a sign rule of the Fiedler vector, which is then the score.

    Raises:
        ValueError: If the name or an option is unknown or out of range.
    """
    if name in SIGNS:
        name, options = "fiedler", {"sign": name, **options}
    score = SCORES[check_choice("score", name, SCORES)]
    check_known(f"score {name!r}", "option", options, score.options)
    for option, value in options.items():
        if score.row == "spectral_scores":
            check_choice("score" if option == "sign" else option, value, SPECTRAL[option])
    return replace(score, options={**score.options, **options})


# ---------------------------------------------------------------------------- pickers


def _no_flops(drawn: int, kept: int, context: Any) -> float:
    return 0.0


@dataclass(frozen=True)
class NamedPicker:
    """A picker, made of functions of modules: so it can be pickled.

    Attributes:
        pick: The scores, if it goes by some, what it reads, count, noise, options -> positions.
        text: A line about it.
        score: The score that it goes by: `make_picker` makes one of a name; None for none.
        reads: Observations that it is handed, in this order.
        options: Its own options, with their values.
        exact: True if it returns exactly the count asked for; else that is the expectation.
        flops: Samples drawn, samples kept, the run's facts -> operations.
        needs: Optional observations that it and its score read, name -> options.
        name: Its name.
    """

    pick: Callable[..., Positions]
    text: str
    score: NamedScore | str | None = None
    reads: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True
    flops: Callable[[int, int, Any], float] = _no_flops
    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name: str = ""

    def __call__(self, batch: Batch, k: int, noise: Any) -> Positions:
        """Return k positions among the batch's rows."""
        scores = [self.score(batch)] if isinstance(self.score, NamedScore) else []
        return self.pick(*scores, *(batch[name] for name in self.reads), k, noise, **self.options)


def _weighted(scores: Floats, k: int, noise: Any) -> Positions:
    return weights.weighted_sample(np.maximum(scores, 0.0), k, noise)


def _k_center_flops(drawn: int, kept: int, context: Any) -> float:
    return weights.k_center_flops(drawn, kept, context.feature_dim)


def _divbs(probabilities: Any, embeddings: Any, labels: Any, k: int, noise: Any) -> Positions:
    residuals = np.array(probabilities, dtype=np.float64)
    residuals[np.arange(len(residuals)), np.asarray(labels).astype(np.int64)] -= 1.0
    return weights.divbs(residuals, embeddings, k, noise)


def _divbs_flops(drawn: int, kept: int, context: Any) -> float:
    return weights.divbs_flops(drawn, kept, context.num_classes, context.embedding_dim)


PICKERS = {
    "bernoulli": NamedPicker(
        weights.bernoulli_by_percentile,
        "A coin for each sample; its odds rise with the score's rank in the batch.",
        score="loss",
        exact=False,
    ),
    "chunked": NamedPicker(
        weights.chunked_softmax,
        "Drawn in chunks, each from the softmax over what is left (JEST's).",
        score="learnability",
        options={"chunks": 16, "temperature": 1.0},
    ),
    "divbs": NamedPicker(
        _divbs,
        "Greedy orthogonal pick on the last layer's gradients (DivBS's).",
        reads=("learner_probabilities", "learner_embeddings", "labels"),
        flops=_divbs_flops,
    ),
    "hybrid": NamedPicker(
        weights.hybrid,
        "Half by highest score, the rest drawn by reference loss (the paper's).",
        score="abs",
        reads=("reference_losses",),
        options={"loss_weighting": "inverse", "score_share": 0.5},
    ),
    "k-center": NamedPicker(
        weights.k_center,
        "Each the farthest from those picked before, by the reference's features.",
        reads=("features",),
        flops=_k_center_flops,
    ),
    "softmax": NamedPicker(
        weights.softmax_sample,
        "Drawn without replacement from the softmax of the scores over a temperature.",
        score="abs",
        options={"temperature": 1.0},
    ),
    "top-score": NamedPicker(weights.top_k, "The highest scores alone.", score="abs"),
    "uniform": NamedPicker(weights.uniform, "Any, with equal chances."),
    "weighted": NamedPicker(
        _weighted,
        "Drawn with odds in proportion to the score; what scores 0 or less comes last.",
        score="abs",
    ),
}


def picker_options(name: str) -> list[str]:
    """Return the options of a picker, and of the score that it picks by."""
    picker = PICKERS.get(name)
    if picker is None:
        return []
    spectral = [option for option in SPECTRAL if option != "sign"]
    return [*picker.options, *(["score", *spectral] if picker.score else [])]


def make_picker(name: str, **options: Any) -> NamedPicker:
    """Return a picker by name.

    Raises:
        ValueError: If the name or an option is unknown or out of range.
    """
    picker = PICKERS[check_choice("picker", name, PICKERS)]
    check_known(f"picker {name!r}", "option", options, picker_options(name))
    own = {option: options.pop(option, value) for option, value in picker.options.items()}
    score = options.pop("score", picker.score)
    if score and not isinstance(score, NamedScore):
        score = make_score(score, **options)
    needs = score.needs if score else {}
    needs |= {row: {} for row in picker.reads if row != "labels"}  # those are always shown
    if own:  # one sample is picked, to have them checked
        columns = [np.ones(1)] * (len(picker.reads) + bool(score))
        picker.pick(*columns, 1, np.full(1, 0.5), **own)
    return replace(picker, score=score, options=own, needs=needs, name=name)


_LEARNABLE = make_picker("softmax", score="stale-learnability")
RATIO_PICKERS = {
    # In absolute value, whatever sign an agent observes.
    "hybrid": replace(make_picker("hybrid"), score=replace(make_score("abs"), size=True)),
    "learnability": replace(_LEARNABLE, name="learnability"),
    "uniform": make_picker("uniform"),
}
"""Which samples of a batch an agent keeps once it has said how many."""
