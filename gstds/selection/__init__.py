"""How many samples of a drawn batch are kept, and which: pure functions over arrays."""

from gstds.selection.sampling import bernoulli_by_percentile, chunked_softmax, softmax_sample
from gstds.selection.schedules import Schedule, make_schedule
from gstds.selection.weights import (
    hybrid,
    kept_count,
    loss_weights,
    top_k,
    uniform,
    weighted_sample,
    weights_for_ratio,
)

__all__ = [
    "Schedule",
    "bernoulli_by_percentile",
    "chunked_softmax",
    "hybrid",
    "kept_count",
    "loss_weights",
    "make_schedule",
    "softmax_sample",
    "top_k",
    "uniform",
    "weighted_sample",
    "weights_for_ratio",
]
