"""Images read from disk as JPEG: samples of drawn batches a second at keep .25 against keep 1.

    python benchmarks/jpeg_folder.py [--quick] [--rounds 5]

A folder of 10,000 JPEG files (quick: 2,000) of 160×160 pixels, made from the digits of scikit-learn
with noise, read at 160 pixels; the learner is a small linear one, so that decoding is the
bottleneck. What is dropped is neither opened nor decoded. `random` chooses, so nothing but loading
is compared.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from interleaved import arguments, figure, interleave, publish, ratio, rounds_of
from stepping import Stepper, several
from torch import nn

SIDE, BATCH, STEPS = 160, 128, 4


def linear(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The learner: means of 8×8 pixels, then one layer."""
    pooled = shape[0] * (shape[1] // 8) * (shape[2] // 8)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(pooled, classes))


def write_images(folder: Path, count: int) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for i in range(count):
        row = i % len(digits.images)
        pixels = np.kron(digits.images[row] * 15, np.ones((SIDE // 8, SIDE // 8)))
        colors = pixels[:, :, None] + rng.integers(0, 30, size=(SIDE, SIDE, 3))
        image = Image.fromarray(np.minimum(colors, 255).astype(np.uint8))
        image.save(folder / str(digits.target[row]) / f"{i}.jpg", quality=85)


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    count = 2_000 if options.quick else 10_000
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name) / "images", count)
        data = {"dataset": f"folder:{name}/images", "learner": "jpeg_folder:linear"}
        common = {"batch_size": BATCH, "schedule": "constant"}
        full = Stepper.begin("full", data, **common)
        quarter = Stepper.begin("random", data, keep=0.25, **common)
        runners = {"full": several(full.step, STEPS), "quarter": several(quarter.step, STEPS)}
        seconds = interleave(runners, rounds_of(options))
        spent = full.env.ledger.seconds
        loading = spent["load"] / sum(spent.get(k, 0.0) for k in ("load", "train", "policy"))
    item = figure(
        f"{count:,} JPEG files, {SIDE} pixels: keep .25 / keep 1",
        ratio(seconds["full"], seconds["quarter"]),
        reach=3.5,
        loading_share_at_keep_1=round(loading, 3),
        drawn_samples_a_second=round(STEPS * BATCH / float(np.median(seconds["quarter"]))),
    )
    publish("jpeg-folder", "Drawn samples a second, images from JPEG files", [item], options)


if __name__ == "__main__":
    main()
