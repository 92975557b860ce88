"""Fiedler scores: one number per sample from the cosine graph of a batch's features.

The affinity S holds the cosines of the feature rows, unit diagonal included, and D its row sums.
The Fiedler vector is the eigenvector of the smallest eigenvalue of D - S, or of
I - D^-½ S D^-½, on the complement of the trivial vector (1, or D^½·1).

Source: GSTDS (arXiv 2507.04269); the unnormalized Laplacian as in SALN (arXiv 2412.17069).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gstds.common.checks import check_choice, check_integer, check_number
from gstds.spectral.davidson import solve_matrix_free
from gstds.spectral.dense import one_blas_thread, solve_dense
from gstds.spectral.eigenvector import RESOLUTION, Solution, orient
from gstds.spectral.operator import clamped_operator, low_rank_operator
from gstds.spectral.rows import Rows, prepare_rows, resolve_affinity

__all__ = [
    "AFFINITIES",
    "AUTO_DENSE_MAX",
    "AUTO_DENSE_MAX_GPU",
    "LAPLACIANS",
    "RESOLUTION",
    "SIGNS",
    "SOLVERS",
    "Spectrum",
    "degrees",
    "fiedler_vector",
    "spectral_flops",
]

LAPLACIANS = ("unnormalized", "normalized")
SOLVERS = ("auto", "dense", "matrix-free")
SIGNS = ("abs", "skew", "raw")
AFFINITIES = ("auto", "shift", "clamp", "error", "cosine")
EMBEDDINGS = ("laplacian", "random-walk")

AUTO_DENSE_MAX = 320
"""Largest N that ``solver="auto"`` solves densely (measured: see docs/spectral.md)."""

AUTO_DENSE_MAX_GPU = 1024
"""The same where the features lie on a GPU, whose small kernels cost as much as large ones."""

TYPICAL_ITERATIONS = 16
"""Iterations that `spectral_flops` assumes for the matrix-free solver unless told."""

CLAMPED_DENSE_MAX = 4096
"""The same with ``affinity="clamp"``: beyond, the blocks of the matrix are made again and again."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Scores of a batch and the low end of its Laplacian's spectrum.

    For batched input every field has a leading B: arrays (B,), `status` a tuple.

    Attributes:
        scores: Unit vector (N,), float32, or float64 for float64 and whole-number input; array
            type and device as the input's.
        lambda2: Smallest eigenvalue on the complement of the trivial vector.
        lambda3: The next one; equal to `lambda2` where N <= 2 leaves none.
        lambda_max: Upper bound of the largest eigenvalue: max(D), or 1 if normalized; twice that
            if clamped. Sharp to about 1/N unless clamped.
        iterations: Expansions of the matrix-free solver; 0 for the dense one.
        residual: Norm of L·v - lambda2·v.
        status: ``converged``; ``indefinite`` (lambda2 below zero, with negative cosines);
            ``disconnected`` (lambda2 <= 1e-6·lambda_max); ``degenerate`` (lambda3 - lambda2 <=
            1e-6·lambda_max); ``not-converged``; ``trivial`` (N = 1).
    """

    scores: Any
    lambda2: Any
    lambda3: Any
    iterations: Any
    residual: Any
    status: Any
    lambda_max: Any

    @property
    def eigengap(self) -> Any:
        """(lambda3 - lambda2) / lambda_max, in [0, 1]."""
        return _to_unit_interval((self.lambda3 - self.lambda2) / self.lambda_max)

    @property
    def effective_nodes(self) -> Any:
        """Share of the samples that carry the vector: 1 / (N·Σv⁴), in (0, 1]."""
        fourth = (self.scores**4).sum(-1)
        share = 1.0 / (self.scores.shape[-1] * fourth)
        return _to_unit_interval(float(share) if share.ndim == 0 else share)


def _to_unit_interval(values: Any) -> Any:
    """Take off what rounding put beyond [0, 1]."""
    return min(max(values, 0.0), 1.0) if isinstance(values, float) else values.clip(0.0, 1.0)


def fiedler_vector(
    features: Any,
    *,
    laplacian: str = "unnormalized",
    solver: str = "auto",
    sign: str = "abs",
    affinity: str = "auto",
    embedding: str = "laplacian",
    tolerance: float = 1e-6,
    max_iterations: int = 500,
) -> Spectrum:
    """Compute the Fiedler scores of a batch.

    Args:
        features: Features (N, D), or (B, N, D) for B batches; numpy or torch, any real type. Rows
            need not have unit length.
        laplacian: ``unnormalized`` (D - S) or ``normalized`` (I - D^-½ S D^-½, vector not
            rescaled).
        solver: ``dense``, ``matrix-free`` (O(N·D) memory), or ``auto``: dense up to
            `AUTO_DENSE_MAX` samples, on a GPU `AUTO_DENSE_MAX_GPU`. Obeyed for N >= 3.
        sign: ``abs`` (absolute values), ``skew`` (Σv³ > 0) or ``raw`` (the eigenvector itself,
            its sign fixed by the samples' content).
        affinity: What happens to negative cosines: ``shift`` ((1 + S)/2), ``clamp`` (max(S, 0)),
            ``error``, ``cosine`` (S as it is), or ``auto``: S as it is if no feature is negative,
            else shift, which is logged once.
        embedding: ``laplacian``, or ``random-walk``: D^-½·v scaled to unit length, for the
            normalized Laplacian only.
        tolerance: Residual that the matrix-free solver reaches, as a share of λmax.
        max_iterations: Expansions after which it gives up, with status ``not-converged``.

    Returns:
        The spectrum.

    Raises:
        TypeError: If ``features`` is no array.
        ValueError: If an option is unknown or combined with one that excludes it, or if
            ``features`` has another shape, no sample, NaN, infinity or a row of zeros.
    """
    options = _Options(laplacian, solver, sign, affinity, embedding, tolerance, max_iterations)
    options.check()
    tensor, is_numpy = _as_tensor(features)
    if tensor.ndim == 2:
        return _single(tensor, is_numpy, options)
    return _stack([_single(item, is_numpy, options) for item in tensor], tensor, is_numpy)


@dataclass(frozen=True, slots=True)
class _Options:
    laplacian: str
    solver: str
    sign: str
    affinity: str
    embedding: str
    tolerance: float
    max_iterations: int

    def check(self) -> None:
        check_choice("laplacian", self.laplacian, LAPLACIANS)
        check_choice("solver", self.solver, SOLVERS)
        check_choice("sign", self.sign, SIGNS)
        check_choice("affinity", self.affinity, AFFINITIES)
        check_choice("embedding", self.embedding, EMBEDDINGS)
        check_number("tolerance", self.tolerance, low=0.0, high=1e-2, open_low=True)
        check_integer("max_iterations", self.max_iterations, low=0)
        if self.embedding == "random-walk" and self.laplacian != "normalized":
            raise ValueError(
                "embedding='random-walk' is D^-½ times the normalized Laplacian's vector; "
                f"pass laplacian='normalized', got {self.laplacian!r}"
            )
        if self.affinity == "clamp" and self.solver == "matrix-free":
            raise ValueError(
                "affinity='clamp' has no low-rank form: pass solver='dense' or 'auto', "
                "or affinity='shift', got solver='matrix-free'"
            )


def _as_tensor(features: Any) -> tuple[torch.Tensor, bool]:
    is_numpy = isinstance(features, np.ndarray)
    if not is_numpy and not isinstance(features, torch.Tensor):
        raise TypeError(f"features must be a numpy array or a torch tensor, got {type(features)}")
    if is_numpy and features.dtype.kind not in "fiub":
        raise TypeError(f"features must hold real numbers, got dtype {features.dtype}")
    tensor = torch.from_numpy(_torch_ready(features)) if is_numpy else features
    if tensor.ndim not in (2, 3) or 0 in tensor.shape:
        raise ValueError(
            f"features must have shape (N, D) or (B, N, D) without empty axes, "
            f"got {tuple(tensor.shape)}"
        )
    return tensor.detach(), is_numpy


def _torch_ready(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if features.dtype not in (np.float16, np.float32, np.float64):
        return features.astype(np.float64, order="C")
    # torch warns about a read-only array, such as a memory-mapped store's, even if only read
    return np.require(features, requirements=("C", "A", "W"))


def _single(tensor: torch.Tensor, is_numpy: bool, options: _Options) -> Spectrum:
    rows = prepare_rows(tensor)
    solution, row_sums = _solve(rows, resolve_affinity(rows, options.affinity), options)
    vector = solution.vector
    if options.embedding == "random-walk":
        vector = vector * row_sums.rsqrt()
        vector = vector / torch.linalg.vector_norm(vector)
    reference = rows.reference() if options.sign != "abs" else vector
    scores = orient(vector, reference, options.sign).to(rows.raw.dtype)
    return Spectrum(
        scores=scores.numpy() if is_numpy else scores,
        lambda2=solution.lambda2,
        lambda3=solution.lambda3,
        iterations=solution.iterations,
        residual=solution.residual,
        status=solution.status,
        lambda_max=solution.lambda_max,
    )


def _solve(rows: Rows, affinity: str, options: _Options) -> tuple[Solution, torch.Tensor]:
    count = len(rows.raw)
    if count == 1:
        one = torch.ones(1, dtype=torch.float64, device=rows.raw.device)
        return Solution(one, 0.0, 0.0, 1.0, 0, 0.0, "trivial"), one
    limit = AUTO_DENSE_MAX if rows.raw.device.type == "cpu" else AUTO_DENSE_MAX_GPU
    limit = CLAMPED_DENSE_MAX if affinity == "clamp" else limit
    dense = options.solver == "dense" or (options.solver == "auto" and count <= limit)
    if dense or count == 2:
        return solve_dense(rows, affinity, options.laplacian)
    if affinity == "clamp":
        operator: Any = clamped_operator(rows, options.laplacian)
    else:
        operator = low_rank_operator(rows, affinity, options.laplacian)
    with one_blas_thread():
        solution = solve_matrix_free(
            operator, tolerance=options.tolerance, max_iterations=options.max_iterations
        )
    return solution, operator.degrees


def _stack(items: list[Spectrum], tensor: torch.Tensor, is_numpy: bool) -> Spectrum:
    def column(name: str) -> Any:
        values = np.asarray([getattr(item, name) for item in items])
        return values if is_numpy else torch.from_numpy(values).to(tensor.device)

    scores = [item.scores for item in items]
    return Spectrum(
        scores=np.stack(scores) if is_numpy else torch.stack(scores),
        status=tuple(item.status for item in items),
        **{
            name: column(name)
            for name in ("lambda2", "lambda3", "iterations", "residual", "lambda_max")
        },
    )


def degrees(features: Any, affinity: str = "auto") -> Any:
    """Return each sample's degree: the sum of its affinities, its own included.

    Args:
        features: Features (N, D), numpy or torch.
        affinity: As for `fiedler_vector`.

    Returns:
        Degrees (N,), array type and device as the input's; float64 for float64 input, else float32.

    Raises:
        TypeError: If ``features`` is no array.
        ValueError: As for `fiedler_vector`.
    """
    check_choice("affinity", affinity, AFFINITIES)
    tensor, is_numpy = _as_tensor(features)
    if tensor.ndim != 2:
        raise ValueError(f"features must have shape (N, D), got {tuple(tensor.shape)}")
    rows = prepare_rows(tensor)
    resolved = resolve_affinity(rows, affinity)
    if resolved == "clamp":
        sums = clamped_operator(rows, "unnormalized").degrees
    else:
        sums = rows.degrees(resolved)
    sums = sums.to(rows.raw.dtype)
    return sums.numpy() if is_numpy else sums


def spectral_flops(
    n: int,
    d: int,
    *,
    solver: str = "auto",
    iterations: int | None = None,
    laplacian: str = "unnormalized",
    affinity: str = "cosine",
) -> float:
    """Return the operations charged for one solve, 2 for each multiply-add, by formula.

    Dense: the rows' lengths 2·N·D, one triangle of the Gram matrix N·(N + 1)·D, reduction to
    tridiagonal form 4/3·N³ (Golub and Van Loan, Matrix Computations, section 8.3), two vectors
    back 8·N². Matrix-free: set-up 12·N·D, then 4·N·D for each vector the operator is applied
    to: six at the start, two an iteration.

    Args:
        n: Samples N.
        d: Features D.
        solver: As for `fiedler_vector`.
        iterations: Iterations of the matrix-free solver; `TYPICAL_ITERATIONS` unless told.
        laplacian: As for `fiedler_vector`; both cost the same.
        affinity: A clamped affinity is dense up to 4,096 samples, then blockwise.

    Raises:
        TypeError: If a count is not a whole number.
        ValueError: If a count is negative or a name unknown.
    """
    n, d = check_integer("n", n), check_integer("d", d)
    check_choice("solver", solver, SOLVERS)
    check_choice("laplacian", laplacian, LAPLACIANS)
    check_choice("affinity", affinity, AFFINITIES)
    limit = CLAMPED_DENSE_MAX if affinity == "clamp" else AUTO_DENSE_MAX
    if n <= 1:
        return 0.0
    if solver == "dense" or (solver == "auto" and n <= limit) or n == 2:
        return 2.0 * n * d + float(n * (n + 1) * d) + 4.0 / 3.0 * n**3 + 8.0 * n * n
    steps = TYPICAL_ITERATIONS if iterations is None else check_integer("iterations", iterations)
    applications = 6 + 2 * steps
    if affinity == "clamp":
        return 2.0 * n * d + (applications + 1) * 2.0 * n * n * (d + 1)
    return 12.0 * n * d + applications * 4.0 * n * d
