"""What a policy is shown of a run, and what looking costs. Names are imported when asked for."""

from typing import TYPE_CHECKING

from gstds.common.lazy import lazy_names

if TYPE_CHECKING:
    from gstds.observation.cost import Ledger, count_flops
    from gstds.observation.memory import SampleMemory
    from gstds.observation.spec import OBSERVATIONS, OPTIONAL_OBSERVATIONS
    from gstds.observation.summary import SUMMARY_NAMES, summarize

__all__ = [
    "OBSERVATIONS",
    "OPTIONAL_OBSERVATIONS",
    "SUMMARY_NAMES",
    "Ledger",
    "SampleMemory",
    "count_flops",
    "summarize",
]

_ROOMS = {
    "cost": ("Ledger", "count_flops"),
    "memory": ("SampleMemory",),
    "spec": ("OBSERVATIONS", "OPTIONAL_OBSERVATIONS"),
    "summary": ("SUMMARY_NAMES", "summarize"),
}
__getattr__ = lazy_names(
    __name__,
    {name: f"gstds.observation.{room}" for room, names in _ROOMS.items() for name in names},
)
