"""What is compared: the options of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gstds.train.running.options import RunConfig
from gstds.train.tracking.store import check_store

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        base: The options that all runs share.
        policies: Names of policies, or of variants as ``gstds@keep=.4``.
        seeds: Number of seeds; they are ``first_seed`` … first_seed + seeds - 1.
        baseline: The policy that the others are tested against.
        name: Tag of the comparison in the tracking store.
        folder: Where everything goes.
        tracking: URI of the tracking store, None for no tracking.
        experiment: The tracking store's experiment.
        workers: Number of processes.
        checkpoint_every: Steps between checkpoints.
        command: The command that asked for it.
        paper_defaults: Give each policy its paper's schedule and parameters, not the comparison's.
        controls: Run the automatic controls too.
        first_seed: The first of the seeds.
        ray: Address of a Ray cluster, or ``local``; None for processes of this machine.
        offline: Begin though the tracking store does not answer.
        threads: Threads of each run; None for the cores over the workers, on Ray for one.
    """

    base: RunConfig
    policies: tuple[str, ...]
    seeds: int
    baseline: str
    name: str
    folder: Path
    tracking: str | None
    experiment: str
    workers: int = 1
    checkpoint_every: int = 200
    command: str = ""
    paper_defaults: bool = False
    controls: bool = True
    first_seed: int = 0
    ray: str | None = None
    offline: bool = False
    threads: int | None = None

    def check_store(self) -> None:
        """Make sure, before the first run, that the tracking store can be used.

        Raises:
            ConnectionError: If it does not answer, unless the comparison is to begin offline.
        """
        if self.tracking:
            try:
                check_store(self.tracking, self.experiment)
            except ConnectionError:
                if not self.offline:
                    raise
