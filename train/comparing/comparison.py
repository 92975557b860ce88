"""What is compared: the options of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gstds.options.fields import Options, option
from gstds.train.running.options import LogOptions, RunConfig

__all__ = ["CompareOptions", "Comparison", "ExperimentOptions", "FanOutOptions", "SweepOptions"]


@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """Rows."""

    policies: tuple[str, ...] = option(
        ("gstds", "random", "full"),
        "policies, or variants as gstds@keep=.4,score=raw",
        metavar="NAME",
    )
    seeds: int = option(3, "number of seeds", "[1, inf)", metavar="COUNT")
    baseline: str | None = option(
        None, "tested against (default: random, or the first)", metavar="NAME"
    )
    paper_defaults: bool = option(
        False, "each policy on its own paper's schedule, not on the comparison's", flag=True
    )
    controls: bool = option(
        True, "run the controls too: random with the same keep sequence, short full training"
    )


@dataclass(frozen=True, kw_only=True)
class FanOutOptions(Options):
    """Where runs are done."""

    first_seed: int = option(0, "the first seed", metavar="S")
    workers: int = option(1, "processes", "[1, inf)", metavar="K")
    threads: int | None = option(
        None,
        "threads of a run; results are the same bits for equal T (default: cores / K)",
        "[1, inf)",
        metavar="T",
    )
    ray: str | None = option(
        None,
        "work as tasks of a Ray cluster: host:port, auto, or local for one of this machine",
        metavar="ADDRESS|local",
    )


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """Sweep, by selection-validation accuracy, never test."""

    sweep: tuple[str, ...] | None = option(
        None,
        "vary options or policy parameters over a grid: keep=.3,.5 score_share=0,.5,1 "
        "schedule.midpoint=.3,.7; with --sweep-optuna also ranges: keep=.2..0.8, "
        "learning_rate=.01..1:log",
        metavar="KEY=VALUES",
    )
    sweep_optuna: int | None = option(
        None,
        "N points chosen by Optuna instead of the grid (extra 'sweep')",
        "[1, inf)",
        metavar="N",
    )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(SweepOptions, FanOutOptions, RowOptions):
    """Data sets."""

    datasets: tuple[str, ...] | None = option(
        None, "compare on each of these, with an overview", metavar="NAME"
    )


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions(FanOutOptions):
    """Experiment."""

    dataset: tuple[str, ...] = option(
        ("cifar10", "oxford-iiit-pet", "flowers102"), "data sets", metavar="NAME"
    )
    seeds: int = option(5, "number of seeds", "[1, inf)", metavar="COUNT")


@dataclass(frozen=True, kw_only=True)
class Comparison(LogOptions, FanOutOptions, RowOptions):
    """What is compared, beside its options.

    Attributes:
        base: The options that all runs share.
        name: Tag of the comparison in the tracking store.
        folder: Where everything goes.
        tracking: URI of the tracking store, None for no tracking.
        command: The command that asked for it.
    """

    base: RunConfig
    name: str
    folder: Path
    tracking: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        """Take random, or else the first policy, for the baseline if none is named."""
        super().__post_init__()
        if self.baseline is None and self.policies:
            first = "random" if "random" in self.policies else self.policies[0]
            object.__setattr__(self, "baseline", first)

    def check_store(self) -> None:
        """Make sure, before the first run, that the tracking store can be used.

        Raises:
            ConnectionError: If it does not answer, unless the comparison is to begin offline.
        """
        if self.tracking:
            from gstds.train.tracking.store import check_store

            try:
                check_store(self.tracking, self.experiment)
            except ConnectionError:
                if not self.offline:
                    raise
