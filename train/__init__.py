"""The experiments: run one, compare many, track, report, command line."""

from typing import TYPE_CHECKING

from gstds.common.lazy import lazy_names

if TYPE_CHECKING:
    from gstds.train.cli.calls import compare as compare
    from gstds.train.cli.calls import run as run
    from gstds.train.running.ending import RunFailedError as RunFailedError

__getattr__, __all__ = lazy_names(__name__, __file__)
