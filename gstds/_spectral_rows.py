"""Feature rows as the spectral solvers want them: finite, not zero, with a known affinity."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from gstds.noise import keyed_uniform

__all__ = ["Rows", "prepare_rows", "resolve_affinity", "tall_product", "wide_product"]

_LOG = logging.getLogger("gstds.spectral")
_DIRECTION_SEED = 0x5EED
_CLAMP_BLOCK = 1024
_SAFE_LOW, _SAFE_HIGH = 1e-16, 1e16
_FEW = 4
_ROWS = 1024


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

    def column_sums(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum (D,) of the unit rows."""
        return (self.inverse_norms * weights.to(self.raw.dtype)) @ self.raw

    def project(self, directions: torch.Tensor) -> torch.Tensor:
        """Return the unit rows' components (N, K) along ``directions`` (K, D), as float64."""
        products = tall_product(self.raw, directions.to(self.raw.dtype))
        return (products * self.inverse_norms[:, None]).double()

    def degrees(self, affinity: str) -> torch.Tensor:
        """Return the row sums (N,) of S, or of (1 + S)/2 if ``affinity`` is ``shift``; float64."""
        sums = self.project(self.column_sums(torch.ones_like(self.inverse_norms))[None])[:, 0]
        return (sums + len(sums)) / 2 if affinity == "shift" else sums

    def reference(self) -> torch.Tensor:
        """Return the samples' content projection (N,), float64."""
        return self.project(content_direction(self.raw.shape[1], self.raw.device)[None])[:, 0]


def tall_product(tall: torch.Tensor, few: torch.Tensor) -> torch.Tensor:
    """Return ``tall @ few.T`` (N, K) for tall (N, D) and few (K, D), the way that reads it fast."""
    many_rows = len(tall) > 2 * _ROWS and tall.device.type == "cpu"
    return tall @ few.T if many_rows and 1 < len(few) <= _FEW else (few @ tall.T).T


def wide_product(few: torch.Tensor, tall: torch.Tensor) -> torch.Tensor:
    """Return ``few @ tall`` (K, D) for few (K, N) and tall (N, D), the way that reads it fast."""
    if len(few) == 1 or len(tall) <= 2 * _ROWS or tall.device.type != "cpu":
        return few @ tall
    # Several vectors at once: parts that stay in the cache are multiplied at twice the speed.
    out = few.new_zeros(len(few), tall.shape[1])
    for start in range(0, len(tall), _ROWS):
        part = slice(start, start + _ROWS)
        out.addmm_(few[:, part], tall[part])
    return out


def content_direction(dimension: int, device: torch.device) -> torch.Tensor:
    """Return a fixed direction (D,) without symmetries, the same on every machine.

    Projections on it tell samples apart by their content alone, so whatever is derived from them
    moves with the rows when these are reordered.
    """
    values = keyed_uniform(_DIRECTION_SEED, indices=range(dimension)) - 0.5
    return torch.from_numpy(values).to(device)


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
    if not _said.spoken:
        _said.spoken = True
        _LOG.info(
            "features hold negative values: the affinity is (1 + cosine)/2; "
            "pass affinity='shift', 'clamp', 'cosine' or 'error' to choose"
        )
    return "shift"


@dataclass(slots=True)
class _Once:
    spoken: bool = False


_said = _Once()


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
