"""Feature rows as the spectral solvers want them: finite, not zero, with a known affinity."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch

from gstds.common.noise import keyed_uniform

_LOG = logging.getLogger("gstds.spectral")
_DIRECTION_SEED = 0x5EED
_CLAMP_BLOCK = 1024
_SAFE_LOW, _SAFE_HIGH = 1e-16, 1e16
_ROWS, _MANY = 256, 16


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows whose scaled versions have unit length.

    Attributes:
        raw: Features (N, D), float32 or float64; kept as given, so that nothing is copied.
        inverse_norms: Reciprocal lengths (N,) of the rows, same dtype.
    """

    raw: torch.Tensor
    inverse_norms: torch.Tensor

    def unit(self) -> torch.Tensor:
        """Return the unit rows (N, D)."""
        return self.raw * self.inverse_norms[:, None]

    def column_sums(self) -> torch.Tensor:
        """Return the sum (D,) of the unit rows."""
        return wide_product(self.inverse_norms[None], self.raw)[0]

    def project(self, directions: torch.Tensor) -> torch.Tensor:
        """Return the unit rows' components (N, K) along ``directions`` (K, D), as float64."""
        products = tall_product(self.raw, directions.to(self.raw.dtype))
        return (products * self.inverse_norms[:, None]).double()

    def degrees(self, affinity: str) -> torch.Tensor:
        """Return the row sums (N,) of S, or of (1 + S)/2 if ``affinity`` is ``shift``; float64."""
        sums = self.project(self.column_sums()[None])[:, 0]
        return (sums + len(sums)) / 2 if affinity == "shift" else sums

    def reference(self) -> torch.Tensor:
        """Return the samples' content projection (N,), float64."""
        return self.project(content_direction(self.raw.shape[1], self.raw.device)[None])[:, 0]


def tall_product(tall: torch.Tensor, few: torch.Tensor) -> torch.Tensor:
    """Return ``tall @ few.T`` (N, K) for tall (N, D) and few (K, D), the way that reads it fast."""
    parts = _parts(tall)
    if parts is None:
        return (few @ tall.T).T
    out = tall.new_empty(len(tall), len(few))
    whole = parts.shape[0] * _ROWS
    torch.bmm(parts, few.T.expand(len(parts), -1, -1), out=out[:whole].view(-1, _ROWS, len(few)))
    torch.mm(tall[whole:], few.T, out=out[whole:])
    return out


def wide_product(few: torch.Tensor, tall: torch.Tensor) -> torch.Tensor:
    """Return ``few @ tall`` (K, D) for few (K, N) and tall (N, D), the way that reads it fast."""
    parts = _parts(tall)
    if parts is None:
        return few @ tall
    whole = parts.shape[0] * _ROWS
    split = few[:, :whole].reshape(len(few), -1, _ROWS).transpose(0, 1).contiguous()
    return torch.bmm(split, parts).sum(dim=0).addmm_(few[:, whole:], tall[whole:])


def _parts(tall: torch.Tensor) -> torch.Tensor | None:
    """Return parts (M, rows, D) that stay in a cache while several vectors meet them.

    None where that is not worth it. As one batch of products they are also divided among the
    threads, which a product with one or two vectors is not.
    """
    if tall.device.type != "cpu" or len(tall) < _MANY * _ROWS:
        return None
    whole = len(tall) // _ROWS * _ROWS
    return tall[:whole].view(-1, _ROWS, tall.shape[1])


def empty_rows(count: int, like: torch.Tensor, columns: int) -> torch.Tensor:
    """Return uninitialized rows (count, columns), on a processor in pages as large as there are.

    numpy asks the system for such pages, torch does not: filling them is three times as fast.
    """
    if like.device.type != "cpu":
        return like.new_empty(count, columns)
    kind = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(np.empty((count, columns), dtype=kind))


@lru_cache(maxsize=8)
def content_direction(dimension: int, device: torch.device) -> torch.Tensor:
    """Return a fixed direction (D,) without symmetries, the same on every machine.

    Projections on it tell samples apart by their content alone, so whatever is derived from them
    moves with the rows when these are reordered.
    """
    uniform = keyed_uniform(_DIRECTION_SEED, indices=np.arange(dimension))
    return torch.from_numpy(uniform - 0.5).to(device)


def prepare_rows(features: torch.Tensor) -> Rows:
    """Measure the rows and refuse what has no cosine.

    Args:
        features: Features (N, D) of any floating or whole-number type.

    Raises:
        ValueError: If a row holds NaN or infinity, or is zero; the message names the rows.
    """
    raw = features.detach()
    if raw.dtype not in (torch.float32, torch.float64):
        raw = raw.to(torch.float32 if raw.is_floating_point() else torch.float64)
    norms = torch.linalg.vector_norm(raw, dim=1)
    low, high = (float(value) for value in torch.aminmax(norms))
    if not (low > _SAFE_LOW and high < _SAFE_HIGH):
        raw, norms = _rescaled(raw)
    return Rows(raw, norms.reciprocal())


def _rescaled(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _refuse(~torch.isfinite(raw).all(dim=1), "NaN or infinity", "clean or drop them")
    largest = raw.abs().amax(dim=1)
    _refuse(largest == 0, "only zeros, which have no cosine", "drop them or add a constant feature")
    raw = raw / largest[:, None]
    return raw, torch.linalg.vector_norm(raw, dim=1)


def _refuse(bad: torch.Tensor, what: str, mend: str) -> None:
    rows = torch.nonzero(bad).flatten().tolist()
    if rows:
        shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        raise ValueError(f"features: {len(rows)} row(s) hold {what} (rows {shown}); {mend}")


def resolve_affinity(rows: Rows, affinity: str) -> str:
    """Return what is done to the cosines: ``cosine`` (nothing), ``shift`` or ``clamp``.

    Raises:
        ValueError: If ``affinity="error"`` and a cosine is negative.
    """
    if affinity in ("cosine", "shift", "clamp"):
        return affinity
    if rows.raw.numel() == 0 or float(rows.raw.min()) >= 0:
        return "cosine"
    if affinity == "error":
        _refuse_negative_cosines(rows)
        return "cosine"
    notice_shift()
    return "shift"


@cache
def notice_shift() -> None:
    """Say, once in a process, that cosines are shifted."""
    _LOG.info(
        "features hold negative values: the affinity is (1 + cosine)/2; "
        "pass affinity='shift', 'clamp', 'cosine' or 'error' to choose"
    )


def _refuse_negative_cosines(rows: Rows) -> None:
    unit = rows.unit()
    for start in range(0, len(unit), _CLAMP_BLOCK):
        cosines = unit[start : start + _CLAMP_BLOCK] @ unit.T
        if float(cosines.min()) < 0:
            flat = int(cosines.argmin())
            first, second = start + flat // len(unit), flat % len(unit)
            raise ValueError(
                f"features: rows {first} and {second} have the negative cosine "
                f"{float(cosines.min()):.3g} and affinity='error'; "
                "pass affinity='shift' or 'clamp', or features without negative values"
            )
