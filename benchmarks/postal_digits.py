"""Make a data set of the comparisons: the 9,298 postal digits of 16 x 16 (USPS) as an npz file.

    python benchmarks/postal_digits.py zip.train.gz zip.test.gz runs/postal-digits.npz

The two files are those of the book "The Elements of Statistical Learning", from its page
https://hastie.su.domains/ElemStatLearn/data.html: a line for each digit, its label and 256 grays
from -1 to 1. The second is the test part.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np

from gstds.common.files import write_bytes

SIDE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    arrays = {}
    for name, path in (("", options.train), ("_test", options.test)):
        rows = np.loadtxt(path)
        if rows.ndim != 2 or rows.shape[1] != 1 + SIDE**2:
            parser.error(f"{path} has rows of shape {rows.shape[1:]}, not {1 + SIDE**2} numbers")
        arrays[f"X{name}"] = np.rint(127.5 * (rows[:, 1:] + 1)).astype(np.uint8)
        arrays[f"X{name}"] = arrays[f"X{name}"].reshape(-1, SIDE, SIDE)
        arrays[f"y{name}"] = rows[:, 0].astype(np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(options.out, buffer.getvalue())
    print({name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main()
