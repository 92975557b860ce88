"""The full policy through the environment against a loop written by hand, in samples a second.

    python benchmarks/hand_loop.py [--quick] [--rounds 5]

Same network, images, augmentation, precision (bfloat16 where the processor has it) and layout,
N = 128. A second part sets the environment's default precision and layout against a plain loop in
float32 with contiguous images and weights.
"""

from __future__ import annotations

from interleaved import arguments, figure, interleave, publish, ratio, rounds_of
from stepping import HandLoop, Stepper, random_images, several

from gstds.envs.learner.learner import has_bfloat16, resolve_device

CASES = [("small-cnn", 128, 0.90, 12), ("resnet18", 128, 0.98, 2)]
LARGE = [("small-cnn", 1024, 0.90, 12), ("resnet18", 1024, 0.98, 2)]


def measure(learner: str, n: int, reach: float, steps: int, rounds: int, device: str):
    with random_images(learner, 4 * n, device) as data:
        full = Stepper.begin("full", data, batch_size=n)
        hand = HandLoop(full.env, learner, n)
        plain = HandLoop(full.env, learner, n, precision="float32", channels_last=False)
        runners = {"full": full, "hand": hand, "plain": plain}
        seconds = interleave({k: several(v.step, steps) for k, v in runners.items()}, rounds)
    yield figure(
        f"{learner}, N = {n}: environment / hand",
        ratio(seconds["hand"], seconds["full"]),
        reach=reach,
    )
    at_stake = 1.8 if learner == "resnet18" and has_bfloat16(resolve_device(device)) else None
    yield figure(
        f"{learner}, N = {n}: default / plain float32",
        ratio(seconds["plain"], seconds["full"]),
        reach=at_stake,
    )


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    figures = []
    cases = CASES + (LARGE if options.device == "cuda" else [])
    for learner, n, reach, steps in cases[:1] if options.quick else cases:
        steps = 1 if options.quick else steps
        figures += measure(learner, n, reach, steps, rounds_of(options), options.device)
    publish(
        "hand-loop", "Samples a second: the environment against loops by hand", figures, options
    )


if __name__ == "__main__":
    main()
