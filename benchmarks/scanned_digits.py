"""Make the third data set of the comparisons: 5,000 scanned digits as an npz file.

    apt-get install opencv-doc
    python benchmarks/scanned_digits.py runs/scanned-digits.npz

The picture holds 50 rows of 100 digits of 20 x 20 pixels, five rows for each digit. A fifth of each
class, the same one whenever this is run, becomes the test part.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from gstds.common.files import write_bytes

PICTURE = Path("/usr/share/doc/opencv-doc/examples/data/digits.png")
SIDE, CLASSES = 20, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    if not options.picture.exists():
        parser.error(f"{options.picture} is not there: apt-get install opencv-doc, or --picture")
    pixels = np.asarray(Image.open(options.picture).convert("L"))
    rows, columns = (length // SIDE for length in pixels.shape)
    cells = pixels.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2)
    images = cells.reshape(CLASSES, -1, SIDE, SIDE)
    order = np.random.default_rng(0).permutation(images.shape[1])
    parts = {"": order[len(order) // 5 :], "_test": order[: len(order) // 5]}
    arrays = {}
    for name, chosen in parts.items():
        arrays[f"X{name}"] = images[:, chosen].reshape(-1, SIDE, SIDE)
        arrays[f"y{name}"] = np.repeat(np.arange(CLASSES), len(chosen))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(options.out, buffer.getvalue())
    print({name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main()
