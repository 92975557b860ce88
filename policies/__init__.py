"""Who decides: one idea per file, all behind one interface. Names are imported when asked for."""

from typing import TYPE_CHECKING

from gstds.common.lazy import lazy_names

if TYPE_CHECKING:
    from gstds.policies.base import KeepRatioPolicy as KeepRatioPolicy
    from gstds.policies.base import Policy as Policy
    from gstds.policies.base import RunContext as RunContext
    from gstds.policies.base import Transition as Transition
    from gstds.policies.dropin.sampler import IndexedDataset as IndexedDataset
    from gstds.policies.dropin.sampler import SelectionSampler as SelectionSampler
    from gstds.policies.dropin.selector import Selector as Selector
    from gstds.policies.registry import make_policy as make_policy
    from gstds.policies.registry import policy_names as policy_names

__getattr__, __all__ = lazy_names(__name__, __file__)
