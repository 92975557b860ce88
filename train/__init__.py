"""The experiments: run one, compare many, track, report, command line."""

from typing import TYPE_CHECKING

from gstds.common.lazy import lazy_names

if TYPE_CHECKING:
    from gstds.train.cli.calls import compare, run
    from gstds.train.running.ending import RunFailedError

__all__ = ["RunFailedError", "compare", "run"]

__getattr__ = lazy_names(
    __name__,
    {
        "run": "gstds.train.cli.calls",
        "compare": "gstds.train.cli.calls",
        "RunFailedError": "gstds.train.running.ending",
    },
)
