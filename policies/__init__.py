"""Who decides: one idea per file, all behind one interface. Names are imported when asked for."""

from typing import TYPE_CHECKING

from gstds.common.lazy import lazy_names

if TYPE_CHECKING:
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

_ROOMS = {
    "base": ("KeepRatioPolicy", "Policy", "RunContext", "Transition"),
    "dropin.sampler": ("IndexedDataset", "SelectionSampler"),
    "dropin.selector": ("Selector",),
    "registry": ("make_policy", "policy_names"),
}
__getattr__ = lazy_names(
    __name__, {name: f"gstds.policies.{room}" for room, names in _ROOMS.items() for name in names}
)
