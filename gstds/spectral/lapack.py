"""Two routines of BLAS and LAPACK, called without Python's lock: other threads go on meanwhile.

scipy's own wrappers hold that lock for the whole call, so a solve in the background would stop the
learner between any two of its operations. These call the same routines through the pointers that
scipy publishes for Cython, by ctypes, which gives the lock up.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg.cython_blas
import scipy.linalg.cython_lapack

__all__ = ["gram_lower", "lowest_eigenpairs"]

Matrix = npt.NDArray[np.float64]
_QUERY = -1


@cache
def _routine(module: Any, name: str) -> Any:
    """Return a Fortran routine: every argument is a pointer, nothing is returned."""
    capsule = module.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(None)(address)


def _call(module: Any, name: str, *arguments: Any) -> None:
    """Call a routine with letters, whole numbers, floats, arrays and ctypes objects."""
    _routine(module, name)(*map(_pointer, arguments))


def _pointer(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, bytes):
        return ctypes.c_char_p(value)
    if isinstance(value, int):
        return ctypes.byref(ctypes.c_int(value))
    if isinstance(value, float):
        return ctypes.byref(ctypes.c_double(value))
    return ctypes.byref(value)


def gram_lower(rows: Matrix) -> Matrix:
    """Return the lower triangle (N, N) of ``rows @ rows.T``, zeros above; rows (N, D), C order."""
    n, dim = rows.shape
    out = np.zeros((n, n), order="F")
    rows = np.ascontiguousarray(rows)
    # Row-major (N, D) is column-major (D, N): the routine's "transposed" form.
    blas = scipy.linalg.cython_blas
    _call(blas, "dsyrk", b"L", b"T", n, dim, 1.0, rows, max(1, dim), 0.0, out, n)
    return out


def lowest_eigenpairs(matrix: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """Return the ``count`` lowest eigenvalues, ascending, and their vectors as rows (count, N).

    Args:
        matrix: Symmetric (N, N); its lower triangle is read.
        count: From 1 to N.

    Raises:
        numpy.linalg.LinAlgError: If LAPACK finds fewer than ``count``, as with a NaN.
    """
    n = len(matrix)
    work, integers = _work_sizes(n, count)
    values, vectors = np.empty(n), np.empty((n, count), order="F")
    own = np.array(matrix, order="F")  # the routine destroys it
    found = _dsyevr(own, count, values, vectors, np.empty(work), np.empty(integers, dtype=np.intc))
    return values[:found], vectors.T[:found]


@cache
def _work_sizes(n: int, count: int) -> tuple[int, int]:
    work, integers = np.empty(1), np.empty(1, dtype=np.intc)
    nothing = np.empty((0, 0))
    _dsyevr(nothing, count, np.empty(n), nothing, work, integers, n=n, query=True)
    return int(work[0]), int(integers[0])


def _dsyevr(
    matrix: Matrix,
    count: int,
    values: Matrix,
    vectors: Matrix,
    work: Matrix,
    integers: npt.NDArray[np.intc],
    *,
    n: int | None = None,
    query: bool = False,
) -> int:
    size = len(matrix) if n is None else n
    found, info = ctypes.c_int(0), ctypes.c_int(0)
    support = np.empty(2 * max(1, count), dtype=np.intc)
    lengths = (_QUERY, _QUERY) if query else (len(work), len(integers))
    kind = b"A" if count == size else b"I"
    _call(
        scipy.linalg.cython_lapack,
        "dsyevr",
        *(b"V", kind, b"L", size, matrix, size, 0.0, 1.0, 1, count, 0.0, found),
        *(values, vectors, size, support, work, lengths[0], integers, lengths[1], info),
    )
    if info.value or (found.value < count and not query):
        raise np.linalg.LinAlgError(
            f"dsyevr found {found.value} of {count} eigenvectors (info {info.value}); is every "
            "entry of the matrix a finite number?"
        )
    return found.value
