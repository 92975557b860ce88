"""The reference store: features of every training image, computed once and read by memory map.

Features are unit rows in float16 (a rounding of about 5e-4 of each entry), or in int8, see
`gstds.store.format.encode`. Opening reads the manifest, sizes and headers: no byte of features.
Nothing is trusted unread: each row is checked by its checksum when it is first touched, and
everything by `FeatureStore.verify`. The manifest vouches for itself (SHA-256) and holds a CRC-32
per chunk of ``rows.crc32``: a row is checked by reading that row and 4 bytes for each of its
neighbors, not the whole chunk. In a store of version 1 it holds the CRC-32 of a chunk's features,
which are then read whole.

Beside it lie the reference losses (n,), or logits (n, C), in one file with manifest and checksum.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import check_choice, check_integer, check_not_empty
from gstds.common.files import locked, sha256, write_bytes
from gstds.store import format as disk
from gstds.store.format import CHECKS_NAME, DATA_NAME, Compute, Progress, StoreError

LOSSES_NAME = "losses.safetensors"
_SHAPES = {"losses": "(n,)", "logits": "(n, C)"}


class FeatureStore:
    """A whole store, opened for reading by `FeatureStore.open`.

    It can be pickled and copied, as by the workers of a data loader: every copy opens the folder.

    Attributes:
        path: The store's folder.
        manifest: Shapes, backbone, fingerprint and checksums, as they stand in the manifest.
        rows: How many samples the store holds.
        dim: How many features a sample has.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.rows, self.dim = int(manifest["rows"]), int(manifest["dim"])
        dtype = np.dtype(manifest["dtype"])
        header = disk.array_header(self.rows, self.dim, dtype)
        checks = self.rows * disk.CHECKS_DTYPE.itemsize
        self._sizes = {DATA_NAME: manifest["bytes"], CHECKS_NAME: checks}
        with contextlib.ExitStack() as opened:
            try:
                self._files = {n: opened.enter_context(open(path / n, "rb")) for n in self._sizes}
            except FileNotFoundError as error:
                raise StoreError(path, f"{Path(error.filename).name} is missing") from None
            self._check_sizes()
            if self._files[DATA_NAME].read(len(header)) != header:
                raise StoreError(path, f"header of {DATA_NAME} does not match")
            # Closed with the store, also where nobody closes that: a file left open is a warning.
            self._closing = weakref.finalize(self, opened.pop_all().close)
        self._map = mmap.mmap(self._files[DATA_NAME].fileno(), 0, access=mmap.ACCESS_READ)
        # Else the system reads on ahead of every row: 128 kB where one or two are wanted.
        self._advise("MADV_RANDOM")
        # A plain array: a memmap's own indexing costs more than the reading.
        values = np.frombuffer(self._map, dtype, self.rows * self.dim, len(header))
        self._values = values.reshape(self.rows, self.dim)
        self._bytes = memoryview(values.view(np.uint8))  # type: ignore[arg-type]
        table = np.memmap(self._files[CHECKS_NAME], disk.CHECKS_DTYPE, "r", shape=(self.rows,))
        self._table: npt.NDArray[Any] = table.view(np.ndarray)
        # The system gives memory for these only where they are written.
        self._checked = np.zeros(self.rows, dtype=bool)
        self._checked_chunks = np.zeros(len(manifest["checksums"]), dtype=bool)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: str | None = None,
        backbone: Mapping[str, Any] | None = None,
    ) -> FeatureStore:
        """Open a store after checking its manifest, its size and its header.

        Args:
            path: The store's folder.
            fingerprint: The data's fingerprint, if the store must have been made from that data.
            backbone: The reference's identity, if it must have been made by that reference.

        Raises:
            StoreError: If the store is missing, unfinished, damaged, or made from something else.
        """
        folder = Path(path)
        manifest = disk.read_manifest(folder)
        facts = {**manifest, "fingerprint of the data": manifest["fingerprint"]}
        of = None if backbone is None else dict(backbone)
        disk.check_matches(folder, facts, {"fingerprint of the data": fingerprint, "backbone": of})
        return cls(folder, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by path: the copy opens the files for itself."""
        return _reopen, (str(self.path.absolute()), self.manifest["sha256"])

    def close(self) -> None:
        """Close the store's files; gathering afterwards is a ValueError."""
        self._closing()

    def gather(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the features of some samples.

        Args:
            rows: Sample indices (k,), in any order, repeats allowed.

        Returns:
            Unit rows (k, D), a fresh array.

        Raises:
            TypeError: If the indices are not whole numbers.
            IndexError: If one is outside the store.
            StoreError: If a row that is touched for the first time is damaged.
        """
        index = np.asarray(rows)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise TypeError(f"rows must be whole numbers (k,), got {index.dtype} {index.shape}")
        if index.size and (index.min() < 0 or index.max() >= self.rows):
            found = f"{index.min()} to {index.max()} (store {self.path})"
            raise IndexError(f"rows must lie in [0, {self.rows - 1}], got {found}")
        index = index.astype(np.int64)
        self._check_sizes()
        self._touch(index)
        return disk.decode(self._values.take(index, axis=0))

    def verify(self) -> None:
        """Read the whole store and compare every row with its checksum.

        Raises:
            StoreError: If a row is damaged; the message names the first.
        """
        self._check_sizes()
        self._checked[:] = self._checked_chunks[:] = False
        self._advise("MADV_SEQUENTIAL")
        try:
            self._touch(np.arange(self.rows))
        finally:
            self._advise("MADV_RANDOM")

    def _touch(self, index: npt.NDArray[np.int64]) -> None:
        """Check the rows (k,) that were not checked before."""
        fresh, size = index[~self._checked[index]], int(self.manifest["chunk_rows"])
        if not len(fresh):
            return
        fresh = np.unique(fresh)
        chunks = np.unique(fresh // size)
        for chunk in chunks[~self._checked_chunks[chunks]].tolist():
            sums = self._table[chunk * size : (chunk + 1) * size]
            if disk.checksum(sums) != self.manifest["checksums"][chunk]:
                what = f"checksum of chunk {chunk} of {CHECKS_NAME} does not match"
                raise StoreError(self.path, what)
            self._checked_chunks[chunk] = True
        width = self.dim * self._values.itemsize
        for row, expected in zip(fresh.tolist(), self._table[fresh].tolist(), strict=True):
            if zlib.crc32(self._bytes[row * width : (row + 1) * width]) != expected:
                what = f"checksum of chunk {row // size} does not match (row {row})"
                raise StoreError(self.path, what)
        self._checked[fresh] = True

    def _advise(self, name: str) -> None:
        advice = getattr(mmap, name, None)
        if advice is not None:
            self._map.madvise(advice)

    def _check_sizes(self) -> None:
        # Reading a mapped page that a truncation took away would kill the process.
        for name, expected in self._sizes.items():
            size = os.fstat(self._files[name].fileno()).st_size
            if size != expected:
                raise StoreError(self.path, f"size of {name} is {size} bytes, expected {expected}")


def _reopen(path: str, digest: str) -> FeatureStore:
    """Open a store of which another process, or another object, holds the digest.

    Raises:
        StoreError: If it is missing or damaged, or was made anew since.
    """
    store = FeatureStore.open(path)
    if store.manifest["sha256"] != digest:
        store.close()
        raise StoreError(path, "it was made anew since this copy of it was begun", "open it again")
    return store


def build_store(
    path: str | Path,
    *,
    rows: int,
    dim: int,
    fingerprint: str,
    backbone: Mapping[str, Any],
    compute: Compute,
    dtype: str = "float16",
    chunk_rows: int = 1024,
    progress: Progress | None = None,
) -> FeatureStore:
    """Build a store, resume one whose build was killed, or open the one that is there.

    Args:
        path: The store's folder; made if missing.
        rows: How many samples there are.
        dim: How many features a sample has.
        fingerprint: Identifies the data, order included.
        backbone: The reference's identity (JSON).
        compute: ``compute(start, stop)`` returns the features (stop - start, dim) of those rows;
            they need not be normalized.
        dtype: What a stored number is: ``float16`` or ``int8``.
        chunk_rows: Rows per call, checksum and journal entry.
        progress: Called as ``progress(rows done, rows)`` before each chunk and at the end.

    Raises:
        StoreError: If a finished store is there and is damaged or made from something else.
        OSError: If the folder is not writable or the disk is full; nothing that a later open would
            accept is left.
        ValueError: If an argument is wrong or ``compute`` returns a wrong shape or a number that is
            not finite.
    """
    folder = Path(path)
    asked = {"rows": rows, "dim": dim, "chunk_rows": chunk_rows}
    rows, dim, chunk_rows = (check_integer(name, n, low=1) for name, n in asked.items())
    kind = check_choice("dtype", dtype, disk.DTYPES)
    plan = disk.BuildPlan(rows, dim, chunk_rows, str(fingerprint), dict(backbone), kind)
    disk.canonical(plan.backbone)
    with locked(folder / disk.LOCK_NAME):
        if not (folder / disk.MANIFEST_NAME).exists():
            disk.complete_build(folder, plan, compute, progress)
    store = FeatureStore.open(folder, fingerprint=plan.fingerprint, backbone=plan.backbone)
    facts = {"size": (store.rows, store.dim), "type": store.manifest["dtype"]}
    disk.check_matches(folder, facts, {"size": (plan.rows, plan.dim), "type": plan.numbers.str})
    return store


def save_losses(
    path: str | Path, losses: npt.ArrayLike, manifest: Mapping[str, Any], *, kind: str = "losses"
) -> None:
    """Write losses (n,), or logits (n, C), atomically, as a safetensors file.

    Args:
        path: The file.
        losses: Finite numbers, stored as float32.
        manifest: What they were made from (JSON): fingerprint, backbone, probe options.
        kind: ``losses`` or ``logits``.

    Raises:
        ValueError: If they are not finite or of another number of dimensions.
        OSError: If the file cannot be written.
    """
    from safetensors.numpy import save

    values = np.ascontiguousarray(losses, dtype="<f4")
    shape = _SHAPES[kind]
    if values.ndim != len(shape.split(", ")) or not np.isfinite(values).all():
        raise ValueError(f"{kind} must be finite numbers {shape}, got shape {values.shape}")
    text = disk.canonical(dict(manifest))
    metadata = {"manifest": text, "sha256": _digest(text, values)}
    write_bytes(path, save({kind: values}, metadata=metadata))


def open_losses(
    path: str | Path, *, expected: Mapping[str, Any] | None = None, kind: str = "losses"
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Read losses, or logits, that `save_losses` wrote.

    Args:
        path: The file.
        expected: Entries that the manifest must have, with these values.
        kind: ``losses`` or ``logits``.

    Returns:
        The losses (n,) or logits (n, C), and their manifest.

    Raises:
        StoreError: If the file is missing, damaged, or made from something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    target = Path(path)
    try:
        data = target.read_bytes()
        values = load(data)[kind]
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        text = metadata["manifest"]
        whole = metadata["sha256"] == _digest(text, values)
    except FileNotFoundError:
        mend = "run `gstds features`, or gstds.prepare_store for images of your own"
        raise StoreError(target, f"there are no {kind}", mend) from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StoreError(target, f"the file of {kind} is damaged (header)") from error
    if not whole:
        raise StoreError(target, f"the checksum of the {kind} does not match")
    manifest: dict[str, Any] = json.loads(text)
    disk.check_matches(target, manifest, expected or {})
    return np.array(values, dtype=np.float32), manifest


def _digest(text: str, values: npt.NDArray[Any]) -> str:
    return sha256(text, b"\0", values.tobytes())


# ------------------------------------------------------------------ of images of one's own


def prepare_store(
    path: str | Path,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    reference: str = "efficientnet-lite0",
    groups: npt.ArrayLike | None = None,
    device: str = "cpu",
) -> FeatureStore:
    """Compute features and cross-fitted reference losses once; open them where they are there.

    Args:
        path: The store's folder.
        images: Training images uint8 (n, C, H, W), C 1 or 3, in the order of their indices.
        labels: Class (n,) of each, from 0; two classes at least, and two samples in each.
        reference: Frozen backbone, see `gstds.reference.networks.make_reference`.
        groups: Samples with one number are duplicates; None for none.
        device: Where to compute, as torch names it.

    Returns:
        The store; its folder holds the losses too.

    Raises:
        ValueError: If shapes do not fit, a label is out of range, a class has fewer than two
            samples, or the reference or the device is unknown; before anything is computed.
        StoreError: If a store is there and is damaged or made from other images.
        OSError: If the folder cannot be written.
    """
    import torch

    from gstds.reference.networks import make_reference
    from gstds.reference.probe import cross_fitted_losses

    pixels, classes, grouped = _checked(images, labels, groups)
    folder = Path(path)
    model = make_reference(reference, image_side=max(pixels.shape[2:]), device=device)
    by, of = dict(model.identity), sha256(str(pixels.shape), np.ascontiguousarray(pixels).data)

    def compute(start: int, stop: int) -> Any:
        return model.features(torch.from_numpy(pixels[start:stop].copy()))

    of_what: dict[str, Any] = {"fingerprint": of, "backbone": by, "compute": compute}
    store = build_store(folder, rows=len(pixels), dim=model.feature_dim, **of_what)
    count, known = int(classes.max()) + 1, sha256(classes.tobytes(), grouped.tobytes())
    made_from = {"num_classes": count, "labels": known, "store": of, "backbone": by}
    try:
        open_losses(folder / LOSSES_NAME, expected=made_from)
    except StoreError:
        features = store.gather(np.arange(store.rows))
        result = cross_fitted_losses(features, classes, grouped, num_classes=count, device=device)
        save_losses(folder / LOSSES_NAME, result.losses, made_from)
    return store


def _checked(
    images: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return images, labels and groups (n,) with which the losses can be cross-fitted."""
    from gstds.reference.probe import FOLDS, stratified_folds, whole_numbers

    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        found = f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"images must be uint8 (n, C, H, W) with C 1 or 3, got {found}")
    check_not_empty("images", pixels)
    n = len(pixels)
    classes = whole_numbers("labels", labels, n)
    grouped = whole_numbers("groups", np.arange(n) if groups is None else groups, n)
    if not n or classes.min() == classes.max():
        found = f"the class {classes[0]} alone" if n else "none"
        raise ValueError(f"labels must name at least 2 classes, got {found}")
    if classes.min() < 0:
        raise ValueError(f"labels must be classes from 0, got {classes.min()}")
    if classes.max() >= n:
        found = f"{classes.max()}; number the classes from 0"
        raise ValueError(f"labels must be below the number of samples, {n}, got {found}")
    distinct = len(np.unique(grouped))
    if distinct < FOLDS:
        found = f"{FOLDS}, duplicates counted once, got {distinct}"
        why = "their losses come from heads that were trained on the others"
        raise ValueError(f"images must be at least {found}: {why}")
    count = int(classes.max()) + 1
    stratified_folds(classes, grouped, num_classes=count, folds=FOLDS, seed=0)
    return pixels, classes, grouped
