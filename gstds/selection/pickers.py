"""Pickers by name: a function of `gstds.selection.weights` and the observations that it reads.

A picker that goes by a score takes ``score``: a name of `gstds.selection.scores.SCORES`, or a sign
rule of the Fiedler vector (``abs``, ``skew``, ``raw``), which is then the score. Further options
that no picker knows are the score's, such as ``laplacian``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gstds.common.checks import check_choice, near_names
from gstds.selection.scores import SPECTRAL, NamedScore, make_score
from gstds.selection.weights import (
    Batch,
    Floats,
    Positions,
    bernoulli_by_percentile,
    chunked_softmax,
    divbs,
    divbs_flops,
    hybrid,
    k_center,
    k_center_flops,
    softmax_sample,
    top_k,
    uniform,
    weighted_sample,
)


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
    return weighted_sample(np.maximum(scores, 0.0), k, noise)


def _k_center_flops(drawn: int, kept: int, context: Any) -> float:
    return k_center_flops(drawn, kept, context.feature_dim)


def _divbs(probabilities: Any, embeddings: Any, labels: Any, k: int, noise: Any) -> Positions:
    residuals = np.array(probabilities, dtype=np.float64)
    residuals[np.arange(len(residuals)), np.asarray(labels).astype(np.int64)] -= 1.0
    return divbs(residuals, embeddings, k, noise)


def _divbs_flops(drawn: int, kept: int, context: Any) -> float:
    return divbs_flops(drawn, kept, context.num_classes, context.embedding_dim)


PICKERS = {
    "bernoulli": NamedPicker(
        bernoulli_by_percentile,
        "A coin for each sample; its odds rise with the score's rank in the batch.",
        score="loss",
        exact=False,
    ),
    "chunked": NamedPicker(
        chunked_softmax,
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
        hybrid,
        "Half by highest score, the rest drawn by reference loss (the paper's).",
        score="abs",
        reads=("reference_losses",),
        options={"loss_weighting": "inverse", "score_share": 0.5},
    ),
    "k-center": NamedPicker(
        k_center,
        "Each the farthest from those picked before, by the reference's features.",
        reads=("features",),
        flops=_k_center_flops,
    ),
    "softmax": NamedPicker(
        softmax_sample,
        "Drawn without replacement from the softmax of the scores over a temperature.",
        score="abs",
        options={"temperature": 1.0, "standardize": False},
    ),
    "top-score": NamedPicker(top_k, "The highest scores alone.", score="abs"),
    "uniform": NamedPicker(uniform, "Any, with equal chances."),
    "weighted": NamedPicker(
        _weighted,
        "Drawn with odds in proportion to the score; what scores 0 or less comes last.",
        score="abs",
    ),
}


def picker_names() -> dict[str, str]:
    """Return every picker's name with one line of description."""
    return {name: picker.text for name, picker in PICKERS.items()}


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
    picker, known = PICKERS[check_choice("picker", name, PICKERS)], picker_options(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"picker {name!r} has no option {option!r}; {near_names(option, known)}"
            )
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


RATIO_PICKERS = {
    # In absolute value, whatever sign an agent observes.
    "hybrid": replace(make_picker("hybrid"), score=replace(make_score("abs"), size=True)),
    "learnability": replace(
        make_picker("softmax", score="stale-learnability"), name="learnability"
    ),
    "uniform": make_picker("uniform"),
}
"""Which samples of a batch an agent keeps once it has said how many."""
