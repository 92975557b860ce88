"""Keep-ratio schedules: the share of each drawn batch that is retained, over the progress of a run.

Each schedule is a frozen dataclass, called with progress in [0, 1]. The sigmoid from about 0.18 to
about 0.88 is the paper's (arXiv 2507.04269); the oscillating one follows PODS (arXiv 2605.14773).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from gstds.common import checks
from gstds.common.checks import check_choice, check_fraction

Unit = Literal["steps", "budget"]
_LEAST = 1e-300  # 1 / ratio overflows below it
_EDGE = 1e-6  # progress arrives rounded: a level begins at its edge all the same


@dataclass(frozen=True)
class Schedule:
    """A keep ratio in [0, 1] as a function of progress in [0, 1].

    Attributes:
        ratios: Names of the fields that are keep ratios, or several of them.
    """

    ratios: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the keep ratios."""
        kind = type(self).__name__.lower()
        checked = self._each(lambda name, value: check_fraction(f"{kind} {name}", value))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __call__(self, progress: float) -> float:
        """Return the keep ratio at ``progress``.

        Raises:
            ValueError: If ``progress`` is outside [0, 1].
        """
        return self._ratio(check_fraction("progress", progress))

    def _ratio(self, progress: float) -> float:
        raise NotImplementedError

    def _each(self, change: Callable[[str, float], float]) -> dict[str, Any]:
        """Return the fields that are keep ratios, each value changed."""
        changed: dict[str, Any] = {}
        for name in self.ratios:
            value, many = getattr(self, name), isinstance(getattr(type(self), name), tuple)
            if many and not isinstance(value, Iterable):
                raise TypeError(f"{name} must be several keep ratios, got {value!r}")
            changed[name] = tuple(change(name, v) for v in value) if many else change(name, value)
        return changed

    def _affine(self, scale: float, offset: float) -> Self:
        """Return the schedule whose ratio is ``scale * ratio + offset``."""
        changed = self._each(lambda _, value: min(1.0, max(0.0, scale * value + offset)))
        return replace(self, **changed)

    def mean_keep(self, unit: Unit = "steps") -> float:
        """Return the mean keep ratio of a whole run.

        Args:
            unit: ``"steps"``: progress counts drawn batches, the mean is the integral of the ratio.
                ``"budget"``: progress counts spending, the mean is 1 / ∫(1 / ratio), since low
                ratios then last for more batches.

        Raises:
            ValueError: If the unit is unknown.
        """
        return self._mean(check_choice("unit", unit, ("steps", "budget")))

    def _mean(self, unit: str) -> float:
        if unit == "steps":
            return _integral(self._ratio)
        lowest = min(self._ratio(p) for p in np.linspace(0, 1, 257))
        return 1.0 / _integral(lambda p: 1.0 / self._ratio(p)) if lowest > _LEAST else 0.0

    def with_mean_keep(self, keep: float, unit: Unit = "steps") -> Self:
        """Return the schedule of this shape whose mean keep is ``keep``.

        The levels are scaled down towards 0, or up towards 1, in proportion.

        Args:
            keep: The wanted mean keep ratio in (0, 1].
            unit: The unit of the mean, as for `mean_keep`.

        Raises:
            ValueError: If ``keep`` cannot be reached; the message names the range.
        """
        mean = self.mean_keep(unit)
        if mean <= 0:
            raise ValueError(f"keep: the mean of {self} is 0 in unit {unit!r}; raise its levels")
        if keep <= mean:
            return self._affine(keep / mean, 0.0)
        scale = _root(lambda s: self._affine(s, 1.0 - s).mean_keep(unit) - keep, 0.0, 1.0)
        return self._affine(scale, 1.0 - scale)


def _integral(function: Callable[[float], float]) -> float:
    from scipy.integrate import quad  # slow to import, and seldom needed

    inner = 1e-12
    # The full output holds what quad would otherwise warn of: near a ratio of 0, 1 / ratio is too
    # steep for that accuracy, not for ours.
    options: dict[str, Any] = {"limit": 200, "epsabs": 1e-11, "epsrel": 1e-11, "full_output": 1}
    return float(quad(function, inner, 1.0 - inner, **options)[0])


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq  # slow to import, too

    return float(brentq(function, low, high, xtol=1e-13))


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """The paper's: ``low + (high - low) · σ(steepness · (progress - midpoint))``.

    Args:
        low: Lower asymptote.
        high: Upper asymptote.
        midpoint: Progress at which the ratio is halfway.
        steepness: Slope of the transition.
    """

    ratios = ("low", "high")
    low: float = 0.18
    high: float = 0.88
    midpoint: float = 0.5
    steepness: float = 10.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        checks.check_number("sigmoid midpoint", self.midpoint, low=-10, high=10)
        checks.check_number("sigmoid steepness", self.steepness, low=0, high=1e4, open_low=True)

    def _ratio(self, progress: float) -> float:
        z = self.steepness * (progress - self.midpoint)
        return self.low + (self.high - self.low) * 0.5 * (1.0 + math.tanh(0.5 * z))

    def with_mean_keep(self, keep: float, unit: Unit = "steps") -> Self:
        """Return the sigmoid whose midpoint makes the mean keep ``keep``; see the base class.

        Raises:
            ValueError: If ``keep`` is outside what midpoints reach; the message names the range.
        """

        def mean_at(midpoint: float) -> float:
            return replace(self, midpoint=midpoint).mean_keep(unit)

        first, last = -2.0, 3.0
        lowest, highest = sorted((mean_at(first), mean_at(last)))
        if not lowest <= keep <= highest:
            reach = f"[{lowest:.3f}, {highest:.3f}] for a sigmoid from {self.low:g}"
            mend = "change low or high, or use schedule 'constant'"
            raise ValueError(f"keep must be in {reach} to {self.high:g}, got {keep:g}; {mend}")
        return replace(self, midpoint=_root(lambda m: mean_at(m) - keep, first, last))


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from ``start`` to ``end``."""

    ratios = ("start", "end")
    start: float = 0.18
    end: float = 0.88

    def _ratio(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Cosine(Linear):
    """Half a cosine from ``start`` to ``end``: flat at both ends."""

    def _ratio(self, progress: float) -> float:
        return self.start + (self.end - self.start) * 0.5 * (1.0 - math.cos(math.pi * progress))


@dataclass(frozen=True)
class Constant(Schedule):
    """The same ratio throughout."""

    ratios = ("ratio",)
    ratio: float = 0.53

    def _ratio(self, progress: float) -> float:
        return self.ratio

    def with_mean_keep(self, keep: float, unit: Unit = "steps") -> Self:
        """Return the constant ``keep``."""
        return replace(self, ratio=keep)


class _Staircase(Schedule):
    """Levels that last equally long, over and over."""

    def _stairs(self) -> tuple[tuple[float, ...], int]:
        """Return the levels, and how many there are in a run."""
        raise NotImplementedError

    def _ratio(self, progress: float) -> float:
        levels, count = self._stairs()
        return levels[min(count - 1, int(progress * count + _EDGE)) % len(levels)]

    def _mean(self, unit: str) -> float:
        levels, _ = self._stairs()
        if unit == "steps":
            return math.fsum(levels) / len(levels)
        if min(levels) <= _LEAST:
            return 0.0
        return len(levels) / math.fsum(1.0 / level for level in levels)


@dataclass(frozen=True)
class Step(_Staircase):
    """A staircase: each level lasts for the same share of the run."""

    ratios = ("levels",)
    levels: tuple[float, ...] = (0.18, 0.53, 0.88)

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        if not self.levels:
            raise ValueError("step levels must name at least one keep ratio, got none")

    def _stairs(self) -> tuple[tuple[float, ...], int]:
        return self.levels, len(self.levels)


@dataclass(frozen=True)
class Oscillating(_Staircase):
    """Alternates low and high phases of equal length, ``periods`` times (PODS, arXiv 2605.14773).

    Args:
        low: Ratio in the first half of each period.
        high: Ratio in the second half.
        periods: Number of periods in a run.
    """

    ratios = ("low", "high")
    low: float = 0.18
    high: float = 0.88
    periods: int = 5

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        periods = checks.check_integer("oscillating periods", self.periods, low=1, high=100_000)
        object.__setattr__(self, "periods", periods)

    def _stairs(self) -> tuple[tuple[float, ...], int]:
        return (self.low, self.high), 2 * self.periods


@dataclass(frozen=True)
class Decaying(_Staircase):
    """Falls by a factor each epoch, and is 1 in the last (SRD of PDD, arXiv 2505.22342).

    With `random` that is the authors' release, but for rounding: there counts are cut to whole
    samples.

    Args:
        decay: What the ratio is multiplied by after each epoch, from 1 on.
        epochs: Stairs of the run: to be the number of its epochs, as in the authors' release.
    """

    ratios = ("decay",)
    decay: float = 0.99
    epochs: int = 30

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        epochs = checks.check_integer("decaying epochs", self.epochs, low=2, high=10_000)
        object.__setattr__(self, "epochs", epochs)

    def _stairs(self) -> tuple[tuple[float, ...], int]:
        return (*(self.decay**epoch for epoch in range(self.epochs - 1)), 1.0), self.epochs

    def with_mean_keep(self, keep: float, unit: Unit = "steps") -> Self:
        """Return the schedule whose decay makes the mean keep ``keep``; see the base class.

        Raises:
            ValueError: If ``keep`` is less than what the first and the last epoch keep.
        """
        lowest = replace(self, decay=0.0).mean_keep(unit)
        if not lowest <= keep <= 1.0:
            raise ValueError(f"keep must be in [{lowest:.3f}, 1] for {self}, got {keep:g}")
        decay = _root(lambda d: replace(self, decay=d).mean_keep(unit) - keep, 0.0, 1.0)
        return replace(self, decay=decay)


@dataclass(frozen=True)
class Reversed(Schedule):
    """Another schedule run backwards: by default the sigmoid, from many to few."""

    base: Schedule = field(default_factory=Sigmoid)

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not isinstance(self.base, Schedule):
            raise TypeError(f"reversed base must be a schedule, got {self.base!r}")

    def _ratio(self, progress: float) -> float:
        return self.base._ratio(1.0 - progress)

    def _mean(self, unit: str) -> float:
        return self.base._mean(unit)  # time has no direction in it

    def with_mean_keep(self, keep: float, unit: Unit = "steps") -> Self:
        """Return the reversed schedule whose base reaches ``keep``; see the base class.

        Raises:
            ValueError: If the base cannot reach ``keep``.
        """
        return replace(self, base=self.base.with_mean_keep(keep, unit))


SCHEDULES: dict[str, type[Schedule]] = {
    "sigmoid": Sigmoid,
    "linear": Linear,
    "constant": Constant,
    "cosine": Cosine,
    "step": Step,
    "oscillating": Oscillating,
    "decaying": Decaying,
    "reversed": Reversed,
}


def make_schedule(
    name: str, *, keep: float | None = None, unit: Unit = "steps", **parameters: Any
) -> Schedule:
    """Return a schedule by name.

    Args:
        name: One of `SCHEDULES`.
        keep: The wanted mean keep; None leaves the parameters as they are.
        unit: The unit of the mean keep.
        **parameters: The schedule's parameters. For ``reversed``: ``base``, a name, and the base's.

    Returns:
        The schedule.

    Raises:
        ValueError: If the name or a parameter is unknown, or ``keep`` is out of reach.
    """
    check_choice("schedule", name, SCHEDULES)
    if name == "reversed" and not isinstance(parameters.get("base"), Schedule):
        base = str(parameters.pop("base", "sigmoid"))
        check_choice("reversed base", base, [n for n in SCHEDULES if n != "reversed"])
        parameters = {"base": make_schedule(base, **parameters)}
    kind = SCHEDULES[name]
    known = [f.name for f in fields(kind)]
    checks.check_known(f"schedule {name!r}", "parameter", parameters, known)
    check_choice("unit", unit, ("steps", "budget"))
    schedule = kind(**parameters)
    if keep is None:
        return schedule
    return schedule.with_mean_keep(check_fraction("keep", keep, open_low=True), unit)
