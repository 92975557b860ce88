"""Pickers by name: a pure function of `gstds.selection.weights` and the observations that it reads.

A picker that goes by a score takes ``score``: a name of `gstds.selection.scores.SCORES`, or a sign
rule of the Fiedler vector (``abs``, ``skew``, ``raw``), which is then the score. Further options
that no picker knows are the score's, such as ``laplacian``.

A picker is made of a function of this module and its first arguments: so it can be pickled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gstds.common.checks import (
    check_choice,
    check_fraction,
    check_integer,
    check_number,
    near_names,
)
from gstds.selection.diverse import divbs, divbs_flops, k_center, k_center_flops
from gstds.selection.sampling import bernoulli_by_percentile, chunked_softmax, softmax_sample
from gstds.selection.scores import NamedScore, make_score, spectral_score
from gstds.selection.weights import LOSS_WEIGHTINGS, hybrid, top_k, uniform, weighted_sample

__all__ = ["PICKERS", "NamedPicker", "Sizes", "make_picker", "picker_names"]

Floats = npt.NDArray[np.floating[Any]]
Positions = npt.NDArray[np.int64]
Batch = Mapping[str, Any]
_SIGNS = ("abs", "skew", "raw")
_SPECTRAL = tuple(inspect.signature(spectral_score).parameters)[1:]


class Sizes(Protocol):
    """What a picker's cost depends on beside the batch: a run's facts hold it."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def feature_dim(self) -> int:
        """Width of the reference's features."""

    @property
    def embedding_dim(self) -> int:
        """Width of the learner's embeddings."""


def _no_flops(drawn: int, kept: int, sizes: Sizes) -> float:
    return 0.0


@dataclass(frozen=True)
class NamedPicker:
    """A picker with the optional observations that it needs, name -> options.

    Attributes:
        name: Its name.
        pick: Observation's rows, count, noise -> positions.
        needs: Optional observations that it reads.
        exact: True if it returns exactly the count asked for; else that is the expectation.
        flops: Samples drawn, samples kept, the run's facts -> operations.
    """

    name: str
    pick: Callable[[Batch, int, Any], Positions]
    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exact: bool = True
    flops: Callable[[int, int, Sizes], float] = _no_flops

    def __call__(self, batch: Batch, k: int, noise: Any) -> Positions:
        """Return k positions among the batch's rows."""
        return self.pick(batch, k, noise)


def _score(score: str | NamedScore, options: Mapping[str, Any]) -> NamedScore:
    if isinstance(score, NamedScore):
        return score
    if score in _SIGNS:
        return spectral_score(score, **options)
    return make_score(score, **options)


def _standardized(values: Floats) -> Floats:
    spread = float(values.std())
    return np.asarray((values - values.mean()) / spread if spread > 0 else values * 0.0)


def hybrid_picker(
    score: str | NamedScore = "abs",
    loss_weighting: str = "inverse",
    score_share: float = 0.5,
    **options: Any,
) -> NamedPicker:
    """Half by highest score, the rest drawn by reference loss (the paper's)."""
    check_choice("loss_weighting", loss_weighting, LOSS_WEIGHTINGS)
    check_fraction("score_share", score_share)
    chosen = _score(score, options)
    pick = partial(_hybrid, chosen, score_share, loss_weighting)
    return NamedPicker("hybrid", pick, {**chosen.needs, "reference_losses": {}})


def _hybrid(
    score: NamedScore, share: float, weighting: str, batch: Batch, k: int, noise: Any
) -> Positions:
    return hybrid(
        score(batch),
        batch["reference_losses"],
        k,
        noise,
        score_share=share,
        loss_weighting=weighting,
    )


def top_score_picker(score: str | NamedScore = "abs", **options: Any) -> NamedPicker:
    """The highest scores alone."""
    chosen = _score(score, options)
    return NamedPicker("top-score", partial(_top_score, chosen), chosen.needs)


def _top_score(score: NamedScore, batch: Batch, k: int, noise: Any) -> Positions:
    return top_k(score(batch), k, noise)


def softmax_picker(
    score: str | NamedScore = "abs",
    temperature: float = 1.0,
    standardize: bool = False,
    **options: Any,
) -> NamedPicker:
    """Drawn without replacement from the softmax of the scores over a temperature."""
    chosen = _score(score, options)
    check_number("temperature", temperature, low=0, open_low=True)
    return NamedPicker("softmax", partial(_softmax, chosen, temperature, standardize), chosen.needs)


def _softmax(
    score: NamedScore, temperature: float, standardize: bool, batch: Batch, k: int, noise: Any
) -> Positions:
    values = _standardized(score(batch)) if standardize else score(batch)
    return softmax_sample(values, k, noise, temperature=temperature)


def chunked_picker(
    score: str | NamedScore = "learnability",
    chunks: int = 16,
    temperature: float = 1.0,
    **options: Any,
) -> NamedPicker:
    """Drawn in chunks, each from the softmax over what is left (JEST's)."""
    chosen = _score(score, options)
    check_integer("chunks", chunks, low=1)
    check_number("temperature", temperature, low=0, open_low=True)
    return NamedPicker("chunked", partial(_chunked, chosen, chunks, temperature), chosen.needs)


def _chunked(
    score: NamedScore, chunks: int, temperature: float, batch: Batch, k: int, noise: Any
) -> Positions:
    return chunked_softmax(score(batch), k, noise, chunks=chunks, temperature=temperature)


def weighted_picker(score: str | NamedScore = "abs", **options: Any) -> NamedPicker:
    """Drawn with odds in proportion to the score; what scores 0 or less comes last."""
    chosen = _score(score, options)
    return NamedPicker("weighted", partial(_weighted, chosen), chosen.needs)


def _weighted(score: NamedScore, batch: Batch, k: int, noise: Any) -> Positions:
    return weighted_sample(np.maximum(score(batch), 0.0), k, noise)


def bernoulli_picker(score: str | NamedScore = "loss", **options: Any) -> NamedPicker:
    """A coin for each sample; its odds rise with the score's rank in the batch."""
    chosen = _score(score, options)
    return NamedPicker("bernoulli", partial(_bernoulli, chosen), chosen.needs, exact=False)


def _bernoulli(score: NamedScore, batch: Batch, k: int, noise: Any) -> Positions:
    return bernoulli_by_percentile(score(batch), k, noise)


def uniform_picker() -> NamedPicker:
    """Any, with equal chances."""
    return NamedPicker("uniform", _uniform)


def _uniform(batch: Batch, k: int, noise: Any) -> Positions:
    return uniform(k, noise)


def k_center_picker() -> NamedPicker:
    """Each the farthest from those picked before, by the reference's features."""
    return NamedPicker("k-center", _k_center, {"features": {}}, flops=_k_center_flops)


def _k_center(batch: Batch, k: int, noise: Any) -> Positions:
    return k_center(batch["features"], k, noise)


def _k_center_flops(drawn: int, kept: int, sizes: Sizes) -> float:
    return k_center_flops(drawn, kept, sizes.feature_dim)


def divbs_picker() -> NamedPicker:
    """Greedy orthogonal pick on the last layer's gradients (DivBS's)."""
    needs: dict[str, dict[str, Any]] = {"learner_probabilities": {}, "learner_embeddings": {}}
    return NamedPicker("divbs", _divbs, needs, flops=_divbs_flops)


def _divbs(batch: Batch, k: int, noise: Any) -> Positions:
    residuals = np.array(batch["learner_probabilities"], dtype=np.float64)
    residuals[np.arange(len(residuals)), np.asarray(batch["labels"]).astype(np.int64)] -= 1.0
    return divbs(residuals, batch["learner_embeddings"], k, noise)


def _divbs_flops(drawn: int, kept: int, sizes: Sizes) -> float:
    return divbs_flops(drawn, kept, sizes.num_classes, sizes.embedding_dim)


PICKERS: dict[str, Callable[..., NamedPicker]] = {
    "bernoulli": bernoulli_picker,
    "chunked": chunked_picker,
    "divbs": divbs_picker,
    "hybrid": hybrid_picker,
    "k-center": k_center_picker,
    "softmax": softmax_picker,
    "top-score": top_score_picker,
    "uniform": uniform_picker,
    "weighted": weighted_picker,
}


def picker_names() -> dict[str, str]:
    """Return every picker's name with one line of description."""
    return {n: (inspect.getdoc(f) or "").split("\n")[0] for n, f in PICKERS.items()}


def make_picker(name: str, **options: Any) -> NamedPicker:
    """Return a picker by name.

    Raises:
        ValueError: If the name or an option is unknown or out of range.
    """
    factory = PICKERS[check_choice("picker", name, PICKERS)]
    known = [n for n in inspect.signature(factory).parameters if n != "options"]
    if "score" in known:
        known += _SPECTRAL
    for option in options:
        if option not in known:
            raise ValueError(
                f"picker {name!r} has no option {option!r}; {near_names(option, known)}"
            )
    return factory(**options)
