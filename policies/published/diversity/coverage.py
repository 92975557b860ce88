"""By the cached features alone: k-center, lowest degree, the boundary of the spectral cut."""

from __future__ import annotations

from gstds.policies.base import AnySchedule, KeepRatioPolicy


class KCenter(KeepRatioPolicy):
    """Each kept sample is the farthest from those kept before, by the reference's features.

    Source: Sener and Savarese, arXiv 1708.00489; Gonzalez, 1985
    Cost: n·(n + 4)·D for the distances of all pairs; no forward, cached features
    Helps: meant for duplicates and redundant data
    Hurts: outliers and wrong labels: both are far from everything

    Args:
        schedule: Keep-ratio schedule.

    Raises:
        ValueError: If the schedule is unknown.
    """

    def __init__(self, schedule: AnySchedule = None) -> None:
        super().__init__(schedule, "k-center")


class LowestDegree(KeepRatioPolicy):
    """The samples least similar to their batch: what the unnormalized Fiedler vector nearly says.

    Source: control for GSTDS, arXiv 2507.04269
    Cost: 4·n·D for the degrees; no forward, cached features
    Helps: as a control: a spectral method should beat it
    Hurts: outliers: it keeps them every time

    Args:
        schedule: Keep-ratio schedule.
        affinity: What happens to negative cosines: ``auto``, ``shift``, ``clamp``, ``error``.

    Raises:
        ValueError: If an option is unknown.
    """

    def __init__(self, schedule: AnySchedule = None, affinity: str = "auto") -> None:
        super().__init__(schedule, "top-score", score="lowest-degree", affinity=affinity)


class FiedlerBoundary(KeepRatioPolicy):
    """The samples nearest to zero in the Fiedler vector: between the sides of the batch's cut.

    Source: variant of GSTDS, arXiv 2507.04269; spectral cuts: Shi and Malik, 2000
    Cost: the spectral solve: n²·D + 4/3·n³ up to 320 samples, above that 8·n·D an iteration; no
        forward, cached features
    Helps: meant for where the classes meet in the reference's features
    Hurts: when the cut has little to do with the labels

    Args:
        schedule: Keep-ratio schedule.
        laplacian: ``normalized``, which gives a true cut, or ``unnormalized``.
        affinity: What happens to negative cosines: ``auto``, ``shift``, ``clamp``, ``error``.
        solver: ``auto``, ``dense`` or ``matrix-free``.

    Raises:
        ValueError: If an option is unknown.
    """

    def __init__(
        self,
        schedule: AnySchedule = None,
        laplacian: str = "normalized",
        affinity: str = "auto",
        solver: str = "auto",
    ) -> None:
        options = {"laplacian": laplacian, "affinity": affinity, "solver": solver}
        super().__init__(schedule, "top-score", score="fiedler-boundary", **options)
