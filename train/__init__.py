"""The experiments: run one, compare many, track, report, command line."""

from typing import TYPE_CHECKING

from gstds.common.lazy import lazy_names

if TYPE_CHECKING:
    from gstds.train.calls import compare, run

__all__ = ["compare", "run"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "gstds.train.calls"))
