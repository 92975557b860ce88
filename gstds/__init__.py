"""Train on the samples of each batch that are worth it, and know what it cost.

The names stand in the order of a first program; each is imported when it is first asked for.

    import gstds

    gstds.run("gstds", dataset="digits", epochs=2, out="runs/first")
    gstds.compare(["gstds", "random", "full"], dataset="digits", seeds=3, out="runs/compared")

    class Half(gstds.KeepRatioPolicy):
        def keep_ratio(self, observation):
            return 0.5

The method lies in `gstds.spectral`, `gstds.selection`, `gstds.observation`, `gstds.reference` and
`gstds.store`; the world in `gstds.envs`, who decides in `gstds.policies`, experiments in
`gstds.train`.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from gstds.common.lazy import lazy_names

if TYPE_CHECKING:
    from gstds.policies.base import KeepRatioPolicy, Policy, RunContext, Transition
    from gstds.policies.dropin.sampler import IndexedDataset, SelectionSampler
    from gstds.policies.dropin.selector import Selector
    from gstds.policies.registry import make_policy, policy_names
    from gstds.selection.schedules import make_schedule
    from gstds.spectral.fiedler import fiedler_vector
    from gstds.spectral.laplacian import Spectrum
    from gstds.store.feature_store import FeatureStore, prepare_store
    from gstds.train.cli.calls import compare, run
    from gstds.train.cli.use import load_learner

__version__ = "0.2.0.dev0"

_MODULES = {
    "gstds.train.cli.calls": ("run", "compare"),
    "gstds.train.cli.use": ("load_learner",),
    "gstds.policies.base": ("KeepRatioPolicy", "Policy", "RunContext", "Transition"),
    "gstds.policies.registry": ("make_policy", "policy_names"),
    "gstds.policies.dropin.selector": ("Selector",),
    "gstds.policies.dropin.sampler": ("SelectionSampler", "IndexedDataset"),
    "gstds.store.feature_store": ("FeatureStore", "prepare_store"),
    "gstds.selection.schedules": ("make_schedule",),
    "gstds.spectral.fiedler": ("fiedler_vector",),
    "gstds.spectral.laplacian": ("Spectrum",),
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names}
_ROOMS = ("spectral", "selection", "observation", "reference", "store", "envs", "policies", "train")

__all__ = [
    "FeatureStore",
    "IndexedDataset",
    "KeepRatioPolicy",
    "Policy",
    "RunContext",
    "SelectionSampler",
    "Selector",
    "Spectrum",
    "Transition",
    "compare",
    "fiedler_vector",
    "load_learner",
    "make_policy",
    "make_schedule",
    "policy_names",
    "prepare_store",
    "run",
]

__getattr__ = lazy_names(__name__, {**_NAMES, **dict.fromkeys(_ROOMS, "")})


def __dir__() -> list[str]:
    return [*globals(), *_NAMES, *_ROOMS]


def _refuse_a_mixture() -> None:
    """Refuse to run without sub-packages, or with those of another, installed copy."""
    here = Path(__file__).resolve().parent
    for name in ("envs", "policies", "train"):
        spec = importlib.util.find_spec(f"{__name__}.{name}")
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found is None:
            raise ImportError(
                f"gstds comes from {here}, which is no whole copy: gstds.{name} is not found; "
                f"install it (pip install {here.parent}), or start Python in another folder"
            )
        if found not in (here / name, here.parent / name):
            raise ImportError(
                f"two copies of gstds are mixed: gstds comes from {here}, gstds.{name} from "
                f"{found}; install the copy that you mean into an environment of its own, or "
                "start Python in another folder"
            )


_refuse_a_mixture()
