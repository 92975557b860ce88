"""How many samples of a drawn batch are kept, and which: pure functions over arrays."""

from gstds.selection.schedules import make_schedule
from gstds.selection.weights import (
    hybrid,
    kept_count,
    top_k,
    uniform,
    weighted_sample,
    weights_for_ratio,
)

__all__ = [
    "hybrid",
    "kept_count",
    "make_schedule",
    "top_k",
    "uniform",
    "weighted_sample",
    "weights_for_ratio",
]
