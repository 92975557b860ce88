"""Who decides: one idea per file, all behind one interface."""

from policies.base import KeepRatioPolicy, Policy, RunContext, Transition
from policies.registry import make_policy, policy_names

__all__ = [
    "KeepRatioPolicy",
    "Policy",
    "RunContext",
    "Transition",
    "make_policy",
    "policy_names",
]
