"""Who decides: one idea per file, all behind one interface."""

from policies.base import KeepRatioPolicy, Policy, RunContext, Transition
from policies.loading import IndexedDataset, SelectionSampler
from policies.registry import make_policy, policy_names
from policies.selector import Selector

__all__ = [
    "IndexedDataset",
    "KeepRatioPolicy",
    "Policy",
    "RunContext",
    "SelectionSampler",
    "Selector",
    "Transition",
    "make_policy",
    "policy_names",
]
