"""Keep-ratio schedules: the share of each drawn batch that is retained, over the progress of a run.

Each schedule is a frozen dataclass, called with progress in [0, 1]. The sigmoid from about 0.18 to
about 0.88 is the paper's (arXiv 2507.04269); the oscillating one follows PODS (arXiv 2605.14773).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np

from gstds.common.checks import (
    check_choice,
    check_fraction,
    check_integer,
    check_number,
    near_names,
)

Unit = Literal["steps", "budget"]
_LEAST = 1e-300  # 1 / ratio overflows below it
_TOLD: dict[str, Any] = {"full_output": 1}
_EDGE = 1e-6  # progress arrives rounded: a level begins at its edge all the same


@dataclass(frozen=True)
class Schedule:
    """A keep ratio in [0, 1] as a function of progress in [0, 1]."""

    def __call__(self, progress: float) -> float:
        """Return the keep ratio at ``progress``.

        Raises:
            ValueError: If ``progress`` is outside [0, 1].
        """
        return self._ratio(check_fraction("progress", progress))

    def _ratio(self, progress: float) -> float:
        raise NotImplementedError

    def _breakpoints(self) -> tuple[float, ...]:
        """Return where the ratio jumps."""
        return ()

    def _affine(self, scale: float, offset: float) -> Self:
        """Return the schedule whose ratio is ``scale * ratio + offset``."""
        raise NotImplementedError

    def mean_keep(self, unit: Unit = "steps") -> float:
        """Return the mean keep ratio of a whole run.

        Args:
            unit: ``"steps"``: progress counts drawn batches, the mean is the integral of the ratio.
                ``"budget"``: progress counts spending, the mean is 1 / ∫(1 / ratio), since low
                ratios then last for more batches.

        Raises:
            ValueError: If the unit is unknown.
        """
        check_choice("unit", unit, ("steps", "budget"))
        if unit == "steps":
            return self._integral(self._ratio)
        lowest = min(self._ratio(p) for p in np.linspace(0, 1, 257))
        return 1.0 / self._integral(lambda p: 1.0 / self._ratio(p)) if lowest > _LEAST else 0.0

    def _integral(self, function: Callable[[float], float]) -> float:
        from scipy.integrate import quad  # slow to import, and seldom needed

        edges = (0.0, *self._breakpoints(), 1.0)
        inner = 1e-12
        return math.fsum(
            # The full output holds what quad would otherwise warn of: near a ratio of 0, 1 / ratio
            # is too steep for that accuracy, not for ours.
            quad(function, a + inner, b - inner, limit=200, epsabs=1e-11, epsrel=1e-11, **_TOLD)[0]
            for a, b in itertools.pairwise(edges)
        )

    @classmethod
    def for_mean_keep(cls, keep: float, unit: Unit = "steps", **parameters: Any) -> Self:
        """Return the schedule of this shape whose mean keep is ``keep``.

        The levels are scaled down towards 0, or up towards 1, in proportion.

        Args:
            keep: The wanted mean keep ratio in (0, 1].
            unit: The unit of the mean, as for `mean_keep`.
            **parameters: The shape's other parameters.

        Raises:
            ValueError: If ``keep`` cannot be reached; the message names the range.
        """
        keep = check_fraction("keep", keep, open_low=True)
        shape = cls(**parameters)
        mean = shape.mean_keep(unit)
        if mean <= 0:
            raise ValueError(f"keep: the mean of {shape} is 0 in unit {unit!r}; raise its levels")
        if keep <= mean:
            return shape._affine(keep / mean, 0.0)
        from scipy.optimize import brentq

        scale = brentq(
            lambda s: shape._affine(s, 1.0 - s).mean_keep(unit) - keep, 0.0, 1.0, xtol=1e-13
        )
        return shape._affine(scale, 1.0 - scale)


def _check_ratios(schedule: Schedule, *names: str) -> None:
    for name in names:
        label = f"{type(schedule).__name__.lower()} {name}"
        object.__setattr__(schedule, name, check_fraction(label, getattr(schedule, name)))


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """The paper's: ``low + (high - low) · σ(steepness · (progress - midpoint))``.

    Args:
        low: Lower asymptote.
        high: Upper asymptote.
        midpoint: Progress at which the ratio is halfway.
        steepness: Slope of the transition.
    """

    low: float = 0.18
    high: float = 0.88
    midpoint: float = 0.5
    steepness: float = 10.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_ratios(self, "low", "high")
        check_number("sigmoid midpoint", self.midpoint, low=-10, high=10)
        check_number("sigmoid steepness", self.steepness, low=0, high=1e4, open_low=True)

    def _ratio(self, progress: float) -> float:
        z = self.steepness * (progress - self.midpoint)
        return self.low + (self.high - self.low) * 0.5 * (1.0 + math.tanh(0.5 * z))

    @classmethod
    def for_mean_keep(cls, keep: float, unit: Unit = "steps", **parameters: Any) -> Self:
        """Return the sigmoid whose midpoint makes the mean keep ``keep``; see the base class.

        Raises:
            ValueError: If ``keep`` is outside what midpoints reach; the message names the range.
        """
        keep = check_fraction("keep", keep, open_low=True)
        shape = cls(**parameters)

        def mean_at(midpoint: float) -> float:
            return replace(shape, midpoint=midpoint).mean_keep(unit)

        first, last = -2.0, 3.0
        lowest, highest = sorted((mean_at(first), mean_at(last)))
        if not lowest <= keep <= highest:
            raise ValueError(
                f"keep must be in [{lowest:.3f}, {highest:.3f}] for a sigmoid from {shape.low:g} "
                f"to {shape.high:g}, got {keep:g}; change low or high, or use schedule 'constant'"
            )
        from scipy.optimize import brentq

        midpoint = brentq(lambda m: mean_at(m) - keep, first, last, xtol=1e-13)
        return replace(shape, midpoint=midpoint)


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from ``start`` to ``end``."""

    start: float = 0.18
    end: float = 0.88

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_ratios(self, "start", "end")

    def _ratio(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress

    def _affine(self, scale: float, offset: float) -> Self:
        return replace(
            self,
            start=_clipped(scale * self.start + offset),
            end=_clipped(scale * self.end + offset),
        )


@dataclass(frozen=True)
class Cosine(Linear):
    """Half a cosine from ``start`` to ``end``: flat at both ends."""

    def _ratio(self, progress: float) -> float:
        return self.start + (self.end - self.start) * 0.5 * (1.0 - math.cos(math.pi * progress))


@dataclass(frozen=True)
class Constant(Schedule):
    """The same ratio throughout."""

    ratio: float = 0.53

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_ratios(self, "ratio")

    def _ratio(self, progress: float) -> float:
        return self.ratio

    @classmethod
    def for_mean_keep(cls, keep: float, unit: Unit = "steps", **parameters: Any) -> Self:
        """Return the constant ``keep``.

        Raises:
            ValueError: If ``keep`` is not in (0, 1].
        """
        check_choice("unit", unit, ("steps", "budget"))
        return cls(ratio=check_fraction("keep", keep, open_low=True))


@dataclass(frozen=True)
class Step(Schedule):
    """A staircase: each level lasts for the same share of the run."""

    levels: tuple[float, ...] = (0.18, 0.53, 0.88)

    def __post_init__(self) -> None:
        """Check the parameters."""
        levels = tuple(self.levels)
        if not levels:
            raise ValueError("step levels must name at least one keep ratio, got none")
        checked = tuple(check_fraction("step levels", level) for level in levels)
        object.__setattr__(self, "levels", checked)

    def _ratio(self, progress: float) -> float:
        return self.levels[min(len(self.levels) - 1, int(progress * len(self.levels) + _EDGE))]

    def _breakpoints(self) -> tuple[float, ...]:
        return tuple(i / len(self.levels) for i in range(1, len(self.levels)))

    def _affine(self, scale: float, offset: float) -> Self:
        return replace(self, levels=tuple(_clipped(scale * x + offset) for x in self.levels))


@dataclass(frozen=True)
class Oscillating(Schedule):
    """Alternates low and high phases of equal length, ``periods`` times (PODS, arXiv 2605.14773).

    Args:
        low: Ratio in the first half of each period.
        high: Ratio in the second half.
        periods: Number of periods in a run.
    """

    low: float = 0.18
    high: float = 0.88
    periods: int = 5

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_ratios(self, "low", "high")
        periods = check_integer("oscillating periods", self.periods, low=1, high=100_000)
        object.__setattr__(self, "periods", periods)

    def _ratio(self, progress: float) -> float:
        half = min(2 * self.periods - 1, int(progress * 2 * self.periods + _EDGE))
        return self.high if half % 2 else self.low

    def mean_keep(self, unit: Unit = "steps") -> float:
        """Return the mean of the two levels, harmonic for ``unit="budget"``.

        Raises:
            ValueError: If the unit is unknown.
        """
        check_choice("unit", unit, ("steps", "budget"))
        if unit == "steps":
            return 0.5 * (self.low + self.high)
        if min(self.low, self.high) <= 0:
            return 0.0
        return 2.0 / (1.0 / self.low + 1.0 / self.high)

    def _affine(self, scale: float, offset: float) -> Self:
        return replace(
            self, low=_clipped(scale * self.low + offset), high=_clipped(scale * self.high + offset)
        )


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

    def mean_keep(self, unit: Unit = "steps") -> float:
        """Return the mean keep of the schedule that is reversed: time has no direction in it."""
        return self.base.mean_keep(unit)

    @classmethod
    def for_mean_keep(cls, keep: float, unit: Unit = "steps", **parameters: Any) -> Self:
        """Return the reversed schedule whose base reaches ``keep``; see the base class.

        Raises:
            ValueError: If the base cannot reach ``keep``.
        """
        base = parameters.get("base") or Sigmoid()
        values = {f.name: getattr(base, f.name) for f in fields(base)}
        return cls(base=type(base).for_mean_keep(keep, unit, **values))


SCHEDULES: dict[str, type[Schedule]] = {
    "sigmoid": Sigmoid,
    "linear": Linear,
    "constant": Constant,
    "cosine": Cosine,
    "step": Step,
    "oscillating": Oscillating,
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
    for parameter in parameters:
        if parameter not in known:
            hint = near_names(parameter, known)
            raise ValueError(f"schedule {name!r} has no parameter {parameter!r}; {hint}")
    if keep is None:
        return kind(**parameters)
    return kind.for_mean_keep(keep, unit, **parameters)
