"""Keyed randomness: a number that depends on names and counters, never on the order of calls.

A picker's noise is a function of (seed, step, sample index), an augmentation of (seed, epoch,
sample index). So two policies that keep the same sample see it alike, a batch in another order gets
the same answer in that order, and prefetching needs no generator's state in a checkpoint.

The mixing function is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STREAMS = ("order", "augmentation", "initialization", "selection")
"""What a run's seed fans out into."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_NOISE_STEPS = 1 << 24


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def keyed_bits(seed: int, *counters: int, indices: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Return 64 mixed bits for each index.

    Args:
        seed: The stream's seed.
        *counters: Whole numbers that name the draw, such as a step or an epoch.
        indices: Whole numbers (N,), such as sample indices.

    Returns:
        Bits (N,), a pure function of all arguments.
    """
    state = np.full(1, seed & _MASK, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            state = _mix(state + np.uint64(_GOLDEN)) ^ np.uint64(counter & _MASK)
        keys = np.asarray(indices).astype(np.int64).astype(np.uint64)
        return _mix(_mix(state + np.uint64(_GOLDEN)) + (keys + np.uint64(1)) * np.uint64(_GOLDEN))


def keyed_uniform(seed: int, *counters: int, indices: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return a uniform number in [0, 1) for each index; arguments as for `keyed_bits`."""
    bits = keyed_bits(seed, *counters, indices=indices) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def derived_uniform(noise: npt.ArrayLike, seed: int, stream: int = 0) -> npt.NDArray[np.float64]:
    """Turn the observation's ``noise`` into independent uniforms of a policy's own.

    Args:
        noise: Uniform numbers (N,) in [0, 1) with 24 bits, as the environment gives them.
        seed: The policy's seed.
        stream: Which of several draws for the same step.

    Returns:
        Uniform numbers (N,) in (0, 1), a pure function of the arguments.
    """
    keys = np.rint(np.asarray(noise, dtype=np.float64) * _NOISE_STEPS).astype(np.int64)
    return np.maximum(keyed_uniform(seed, stream, indices=keys), 2.0**-54)


def fan_out(seed: int, names: tuple[str, ...]) -> dict[str, int]:
    """Spawn one 64-bit seed per name from a run's seed (numpy's ``SeedSequence.spawn``)."""
    children = np.random.SeedSequence(seed).spawn(len(names))
    return {
        name: int(child.generate_state(1, np.uint64)[0])
        for name, child in zip(names, children, strict=True)
    }


def policy_seed(seed: int) -> int:
    """Return the 32-bit seed that a policy gets at its reset, from the run's seed."""
    return fan_out(seed, ("policy",))["policy"] % 2**32
