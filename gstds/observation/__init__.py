"""What a policy is shown of a run, and what looking costs."""

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
