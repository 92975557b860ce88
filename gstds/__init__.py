"""The method as pure functions over arrays: spectral scores, schedules, pickers, costs."""

import importlib.util
from pathlib import Path

__version__ = "0.1.0"


def _refuse_a_mixture() -> None:
    """Refuse to run with sub-packages of another copy: an installed one, beside this folder."""
    here = Path(__file__).resolve().parent
    for name in ("envs", "policies", "train"):
        spec = importlib.util.find_spec(f"{__name__}.{name}")
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found not in (None, here / name, here.parent / name):
            raise ImportError(
                f"two copies of gstds are mixed: gstds comes from {here}, gstds.{name} from "
                f"{found}; install the copy that you mean into an environment of its own, or "
                "start Python in another folder"
            )


_refuse_a_mixture()
