"""What a policy may be shown: one row for each observation.

Spaces and bounds, checks of what is asked for, ``gstds list observations``, docs/observations.md
and what a `Selector` says of what it lacks derive from the rows. A new one is a row here, and a
value where its source computes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gstds.common.checks import check_choice, check_known

LARGEST = (2.0 - 2.0**-23) * 2.0**127
"""Losses are shown as they are told, in any unit and of any sign: their bounds are float32's."""

LOSS_BOUND = 100.0
"""What a reward counts a loss in nats as that is larger, or not finite."""

WHOLE_NUMBERS = ("indices",)
"""These are int64, all others float32."""

EMBEDDING_BOUND = 1000.0
"""The learner's embeddings are clipped here, either side of 0."""

Bounds = dict[str, tuple[float, float, tuple[int, ...]]]


class Row(NamedTuple):
    """What one observation is.

    Attributes:
        name: Its name.
        source: Who has its values: ``run`` (`gstds.observation.batch_view.batch_view`), ``data``
            (the labels), ``memory`` (`gstds.observation.memory`), ``features``
            (`gstds.observation.batch_view.spectral_view`), ``reference`` (the cached losses),
            ``learner`` (`gstds.envs.learner.learner`), ``evaluation`` (of reward-validation),
            ``gradients`` (`gstds.envs.learner.optimizers`). In a loop of one's own the last
            three, and the labels, are told.
        shape: N samples drawn, C classes, D features, H embeddings; or 1.
        low: Lowest value.
        high: Highest; None is C - 1.
        meaning: A line.
        cost: What is charged for it, "" if it is always there.
        options: What may be asked of it.
        beside: The observation that it comes with.
    """

    name: str
    source: str
    shape: tuple[str | int, ...]
    low: float
    high: float | None
    meaning: str
    cost: str = ""
    options: tuple[str, ...] = ()
    beside: str = ""

    @property
    def span(self) -> str:
        """Shape and bounds in words, such as ``(N,) in [0, 1]``."""
        shape = ", ".join(map(str, self.shape)) + "," * (len(self.shape) == 1)
        high = "C - 1" if self.high is None else f"{self.high:.10g}"
        return f"({shape}) " + ("finite" if self.high == LARGEST else f"in [{self.low:g}, {high}]")


_N, _1, _LOSS, _FORWARD = ("N",), (1,), (-LARGEST, LARGEST), "the same forward"
_SOLVE = ("laplacian", "sign", "affinity", "embedding", "solver")
_BESIDE = ("", (), "spectral_scores")
_SAMPLE = ((1.0, 0.0), (0.8, 0.6), (0.6, 0.8))  # unit rows
_ROWS: tuple[tuple[Any, ...], ...] = (
    ("last_losses", "memory", _N, *_LOSS, "loss when last trained on; the mean of these before"),
    ("visited", "memory", _N, 0, 1, "1 if the sample was ever trained on"),
    ("age", "memory", _N, 0, 1, "share of the run since it was last trained on; 1 if never"),
    ("labels", "data", _N, 0, None, "class, as the learner is told"),
    ("valid", "run", _N, 0, 1, "0 for the padding of a short last batch"),
    ("indices", "run", _N, -1, 2**31 - 1,
     "the sample's index among the training samples, int64; -1 for padding", "nothing"),
    ("noise", "run", _N, 0, 1, "uniform, a function of (seed, step, sample): for pickers"),
    ("progress", "run", _1, 0, 1, "share of the run done: draws, or budget spent"),
    ("budget_left", "run", _1, 0, 1, "share of the budget left; equal epochs: of full training's"),
    ("keep_ratio", "run", _1, 0, 1, "share kept in the step before; 1 at the start"),
    ("train_loss", "memory", _1, *_LOSS,
     "mean loss of the samples last trained on, biased by selection; log C before, or 0"),
    ("train_loss_ratio", "memory", _1, *_LOSS, "the same by the first of the run, whatever unit"),
    ("mean_last_loss", "memory", _1, *_LOSS, "mean last loss of the samples trained on so far"),
    ("spectral_scores", "features", _N, -1, 1, "Fiedler vector of the batch", "the solve", _SOLVE),
    ("lambda2", "features", _1, 0, 1, "its eigenvalue, over the largest", *_BESIDE),
    ("eigengap", "features", _1, 0, 1, "gap to the next one, over the largest", *_BESIDE),
    ("effective_nodes", "features", _1, 0, 1, "share of the samples that it stands on", *_BESIDE),
    ("reference_losses", "reference", _N, *_LOSS, "cross-fitted loss", "the reference"),
    ("learner_losses", "learner", _N, *_LOSS, "learner loss now", "one forward of N"),
    ("learner_margin", "learner", _N, 0, 1, "highest minus second highest probability", _FORWARD),
    ("learner_entropy", "learner", _N, 0, 1, "entropy of the probabilities, over log C", _FORWARD),
    ("learner_probabilities", "learner", ("N", "C"), 0, 1, "softmax of the logits", _FORWARD),
    ("learner_embeddings", "learner", ("N", "H"), -EMBEDDING_BOUND, EMBEDDING_BOUND,
     "input of the last linear layer", _FORWARD),
    ("features", "features", ("N", "D"), -1, 1, "the reference's, unit rows", "the reference"),
    ("degrees", "features", _N, -1, 1, "mean similarity to the batch", "4 N D", ("affinity",)),
    ("validation_loss", "evaluation", _1, *_LOSS,
     "loss at the last evaluation on reward-validation", "evaluations"),
    ("validation_accuracy", "evaluation", _1, 0, 1,
     "accuracy at the last evaluation on reward-validation", "the same evaluations"),
    ("gradient_noise", "gradients", _1, 0, 1, "log2(1 + noise scale in samples) / 24", "nothing"),
)  # fmt: skip
OBSERVATIONS = {row[0]: Row(*row) for row in _ROWS}
"""Every observation, by name."""

OPTIONAL_OBSERVATIONS: dict[str, tuple[str, ...]] = {
    name: row.options for name, row in OBSERVATIONS.items() if row.cost
}
"""What a policy may declare in ``needs``, with the options of each."""


def asked_of(observe: Iterable[str], *sources: str) -> list[str]:
    """Return the names of ``observe`` whose values one of the sources has, in the rows' order."""
    asked = set(observe)
    return [n for n, row in OBSERVATIONS.items() if n in asked and row.source in sources]


def check_observe(
    who: str, observe: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, dict[str, Any]]:
    """Return what is asked for, name -> options, in the rows' order.

    Args:
        who: Who asks, for messages.
        observe: Optional observations, name -> options.

    Raises:
        ValueError: If a name, an option or its value is unknown, or the name is always shown.
    """
    for name, options in observe.items():
        row = OBSERVATIONS.get(name)
        if row and not row.cost:
            beside = f"it comes with {row.beside!r}" if row.beside else "it is always there"
            raise ValueError(f"{who}: {name!r} is not to be named; {beside}")
        check_choice(who, name, OPTIONAL_OBSERVATIONS)
        check_known(f"{who}: {name!r}", "option", options or {}, OPTIONAL_OBSERVATIONS[name])
        if options:  # its values are refused here, not by the first batch
            import numpy as np

            from gstds.spectral import fiedler

            solve: Any = fiedler.degrees if name == "degrees" else fiedler.fiedler_vector
            try:
                solve(np.array(_SAMPLE, dtype=np.float32), **options)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{who}: {name!r} with {options!r}: {error}") from error
    return {name: dict(observe[name] or {}) for name in OPTIONAL_OBSERVATIONS if name in observe}


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
    sizes: dict[Any, int] = {1: 1, "N": n, "C": classes}
    sizes |= {"D": feature_dim or 0, "H": embedding_width or 0}
    bounds: Bounds = {}
    for name, row in sorted(OBSERVATIONS.items()):
        shape = tuple(sizes[size] for size in row.shape)
        always = not (row.cost or row.beside)
        if all(shape) and (always or name in observe or row.beside in observe):
            high = classes - 1 if row.high is None else row.high
            bounds[name] = (float(row.low), float(high), shape)
    return bounds


def observation_names() -> dict[str, str]:
    """Return every observation with one line of description."""
    return {
        name: f"{row.span}: {row.meaning}" + f"; charged: {row.cost}" * bool(row.cost)
        for name, row in OBSERVATIONS.items()
    }
