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
    from gstds.policies.base import KeepRatioPolicy as KeepRatioPolicy
    from gstds.policies.base import Policy as Policy
    from gstds.policies.base import RunContext as RunContext
    from gstds.policies.base import Transition as Transition
    from gstds.policies.dropin.sampler import IndexedDataset as IndexedDataset
    from gstds.policies.dropin.sampler import SelectionSampler as SelectionSampler
    from gstds.policies.dropin.selector import Selector as Selector
    from gstds.policies.registry import make_policy as make_policy
    from gstds.policies.registry import policy_names as policy_names
    from gstds.selection.schedules import make_schedule as make_schedule
    from gstds.spectral.fiedler import fiedler_vector as fiedler_vector
    from gstds.spectral.laplacian import Spectrum as Spectrum
    from gstds.store.feature_store import FeatureStore as FeatureStore
    from gstds.store.feature_store import prepare_store as prepare_store
    from gstds.train.cli.calls import compare as compare
    from gstds.train.cli.calls import run as run
    from gstds.train.cli.use import load_learner as load_learner

__version__ = "0.2.0.dev0"

_ROOMS = ("spectral", "selection", "observation", "reference", "store", "envs", "policies", "train")
__getattr__, __all__ = lazy_names(__name__, __file__, _ROOMS)


def __dir__() -> list[str]:
    return [*globals(), *__all__, *_ROOMS]


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
