"""Who decides: one idea per file, all behind one interface."""

from gstds.policies.base import KeepRatioPolicy, Policy, RunContext, Transition
from gstds.policies.dropin.sampler import IndexedDataset, SelectionSampler
from gstds.policies.dropin.selector import Selector
from gstds.policies.registry import make_policy, policy_names

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
