"""Fiedler scores: one number per sample from the cosine graph of a batch's features.

The affinity S holds the cosines of the feature rows, unit diagonal included, and D its row sums.
The Fiedler vector is the eigenvector of the smallest eigenvalue of D - S, or of
I - D^-½ S D^-½, on the complement of the trivial vector (1, or D^½·1).

Source: GSTDS (arXiv 2507.04269); the unnormalized Laplacian as in SALN (arXiv 2412.17069).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gstds.common.checks import check_choice, check_integer, check_number
from gstds.spectral import laplacian as graph
from gstds.spectral.laplacian import Rows, Spectrum
from gstds.spectral.solvers import one_blas_thread, solve_dense, solve_matrix_free

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
    check_choice("laplacian", laplacian, LAPLACIANS)
    check_choice("solver", solver, SOLVERS)
    check_choice("sign", sign, SIGNS)
    check_choice("affinity", affinity, AFFINITIES)
    check_choice("embedding", embedding, EMBEDDINGS)
    check_number("tolerance", tolerance, low=0.0, high=1e-2, open_low=True)
    check_integer("max_iterations", max_iterations, low=0)
    if embedding == "random-walk" and laplacian != "normalized":
        what = "D^-½ times the normalized Laplacian's vector; pass laplacian='normalized'"
        raise ValueError(f"embedding='random-walk' is {what}, got {laplacian!r}")
    if affinity == "clamp" and solver == "matrix-free":
        mend = "pass solver='dense' or 'auto', or affinity='shift', got solver='matrix-free'"
        raise ValueError(f"affinity='clamp' has no low-rank form: {mend}")

    def solved(batch: Tensor) -> Spectrum:
        rows = graph.prepare_rows(batch)
        resolved = graph.resolve_affinity(rows, affinity)
        spectrum, row_sums = _solve(rows, resolved, laplacian, solver, tolerance, max_iterations)
        vector = spectrum.scores
        if embedding == "random-walk":
            vector = vector * row_sums.rsqrt()
            vector = vector / torch.linalg.vector_norm(vector)
        reference = rows.reference() if sign != "abs" else vector
        scores = graph.orient(vector, reference, sign).to(rows.raw.dtype)
        return replace(spectrum, scores=scores.numpy() if is_numpy else scores)

    tensor, is_numpy = _as_tensor(features)
    return solved(tensor) if tensor.ndim == 2 else _stack([solved(batch) for batch in tensor])


def _solve(
    rows: Rows, affinity: str, laplacian: str, solver: str, tolerance: float, max_iterations: int
) -> tuple[Spectrum, Tensor]:
    """Return the spectrum of one batch, its scores the eigenvector, and the degrees (N,)."""
    count = len(rows.raw)
    if count == 1:
        one = torch.ones(1, dtype=torch.float64, device=rows.raw.device)
        return Spectrum(one, 0.0, 0.0, 0, 0.0, "trivial", 1.0), one
    limit = AUTO_DENSE_MAX if rows.raw.device.type == "cpu" else AUTO_DENSE_MAX_GPU
    limit = CLAMPED_DENSE_MAX if affinity == "clamp" else limit
    if solver == "dense" or (solver == "auto" and count <= limit) or count == 2:
        return solve_dense(rows, affinity, laplacian)
    if affinity == "clamp":
        operator = graph.clamped_laplacian(rows, laplacian)
    else:
        operator = graph.low_rank_laplacian(rows, affinity, laplacian)
    with one_blas_thread():
        spectrum = solve_matrix_free(operator, tolerance=tolerance, max_iterations=max_iterations)
    return spectrum, operator.degrees


def _stack(items: list[Spectrum]) -> Spectrum:
    """Return the spectra of several batches as one, whose fields have a leading B."""
    every: Any = [item.scores for item in items]
    is_numpy = isinstance(every[0], np.ndarray)
    scores = np.stack(every) if is_numpy else torch.stack(every)

    def column(name: str) -> Any:
        values = np.asarray([getattr(item, name) for item in items])
        return values if is_numpy else torch.from_numpy(values).to(scores.device)

    numbers = [one.name for one in fields(Spectrum) if one.name not in ("scores", "status")]
    status = tuple(item.status for item in items)
    return Spectrum(scores=scores, status=status, **{name: column(name) for name in numbers})


def _as_tensor(features: Any) -> tuple[Tensor, bool]:
    is_numpy = isinstance(features, np.ndarray)
    if not is_numpy and not isinstance(features, Tensor):
        raise TypeError(f"features must be a numpy array or a torch tensor, got {type(features)}")
    if is_numpy:
        if features.dtype.kind not in "fiub":
            raise TypeError(f"features must hold real numbers, got dtype {features.dtype}")
        if features.dtype not in (np.float16, np.float32, np.float64):
            features = features.astype(np.float64, order="C")
        # torch warns about a read-only array, such as a memory-mapped store's, even if only read
        features = torch.from_numpy(np.require(features, requirements=("C", "A", "W")))
    if features.ndim not in (2, 3) or 0 in features.shape:
        wanted = "have shape (N, D) or (B, N, D) without empty axes"
        raise ValueError(f"features must {wanted}, got {tuple(features.shape)}")
    return features.detach(), is_numpy


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
    rows = graph.prepare_rows(tensor)
    resolved = graph.resolve_affinity(rows, affinity)
    if resolved == "clamp":
        sums = graph.clamped_laplacian(rows, "unnormalized").degrees
    else:
        sums = rows.degrees(resolved)
    sums = sums.to(rows.raw.dtype)
    return sums.numpy() if is_numpy else sums


def spectral_flops(
    n: int, d: int, *, solver: str = "auto", iterations: int | None = None, affinity: str = "cosine"
) -> float:
    """Return the operations charged for one solve, 2 for each multiply-add, by formula.

    Both Laplacians cost the same.

    Dense: the rows' lengths 2·N·D, one triangle of the Gram matrix N·(N + 1)·D, reduction to
    tridiagonal form 4/3·N³ (Golub and Van Loan, Matrix Computations, section 8.3), two vectors
    back 8·N². Matrix-free: set-up 12·N·D, then 4·N·D for each vector the operator is applied
    to: six at the start, two an iteration.

    Args:
        n: Samples N.
        d: Features D.
        solver: As for `fiedler_vector`.
        iterations: Iterations of the matrix-free solver; `TYPICAL_ITERATIONS` unless told.
        affinity: A clamped affinity is dense up to 4,096 samples, then blockwise.

    Raises:
        TypeError: If a count is not a whole number.
        ValueError: If a count is negative or a name unknown.
    """
    n, d = check_integer("n", n), check_integer("d", d)
    check_choice("solver", solver, SOLVERS)
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
