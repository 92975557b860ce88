"""Realized saving: how much of the saved compute is saved time, (T_full/T)/(C_full/C).

    python benchmarks/realized_saving.py [--quick] [--rounds 5] [--learner small-cnn resnet18]
                                         [--picker hybrid] [--threads 1]

The baseline gstds with its sigmoid at mean keep .53 and .25: in each round it takes one step at
each of 8 equally spaced points of the schedule (ResNet-18: 4), and `full` takes as many. T is the
steps' seconds, C their charged operations. Every kept count was met before; how much longer the
first meeting of a count takes, whose kernels are made then, stands beside it. `packed` is the same
with --pack. With `--picker uniform` nothing is scored: what is lost then is not selection's. With
`--threads 1` both train on one thread, as each run of a comparison with `--workers` does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from interleaved import Figure, Timed, arguments, figure, interleave, publish, rounds_of
from stepping import RECORDED, Spread, Stepper, random_images, several

from gstds.selection.schedules import make_schedule

KEEPS = (0.53, 0.25)
CASES = [("small-cnn", 128, 0.8, 8), ("small-cnn", 256, 0.8, 8)]
CASES += [("resnet18", 128, 0.9, 4), ("resnet18", 256, 0.95, 4)]
LARGE = [("small-cnn", 1024, 0.8, 8), ("resnet18", 1024, 0.95, 4)]


class Metered:
    """A run whose charged operations are noted whenever it takes its steps."""

    def __init__(
        self, data: dict[str, object], n: int, steps: int, picker: str, keep: float, pack: bool
    ) -> None:
        schedule = make_schedule("sigmoid", keep=keep, unit="steps")
        policy = Spread(schedule, steps, picker=picker)
        self._run = Stepper.begin(policy, data, batch_size=n, pack=pack)
        self._steps = steps
        self.first = several(self._run.step, steps)()
        if self._run.env.device.type == "cuda":  # each count's graph is recorded
            several(self._run.step, RECORDED * steps)()
        self.charged: list[float] = []

    def take(self) -> float:
        before = self._run.charged
        took = float(several(self._run.step, self._steps)())
        self.charged.append(self._run.charged - before)
        return took


def measure(
    learner: str, n: int, reach: float, steps: int, rounds: int, device: str, picker: str
) -> Iterator[Figure]:
    with random_images(learner, 4 * n, device) as data:
        full = Stepper.begin("full", data, batch_size=n)
        forms = [(keep, pack) for keep in KEEPS for pack in (False, True)]
        runs = {form: Metered(data, n, steps, picker, *form) for form in forms}
        runners: dict[str, Timed] = {"full": several(full.step, steps)}
        runners |= {str(form): run.take for form, run in runs.items()}
        seconds = interleave(runners, rounds)
        whole = steps * n * full.env.sample_flops
    for (keep, pack), run in runs.items():
        own, charged = seconds[str((keep, pack))], run.charged[-rounds:]
        values = [
            t / mine * c / whole for t, mine, c in zip(seconds["full"], own, charged, strict=True)
        ]
        yield figure(
            f"{learner}, N = {n}, mean keep {keep}{', packed' if pack else ''}",
            values,
            reach=0.95 if pack and learner == "resnet18" else reach,
            relative_compute=round(float(np.mean(charged)) / whole, 4),
            first_meeting_over_later=round(run.first / float(np.median(own)), 2),
        )


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--learner", nargs="+", default=["small-cnn", "resnet18"])
    parser.add_argument("--picker", default="hybrid")
    parser.add_argument("--threads", type=int, help="of torch; default: all")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256, 1024])
    options = parser.parse_args()
    cases = [CASES[0]] if options.quick else CASES + (LARGE if options.device == "cuda" else [])
    beside = "" if options.picker == "hybrid" else f"-{options.picker}"
    also = "" if options.picker == "hybrid" else f", picker {options.picker}"
    if options.threads:
        torch.set_num_threads(options.threads)
        beside += f"-{options.threads}-thread"
        also += f", {options.threads} thread"
    for learner in options.learner:
        figures: list[Figure] = []
        for _, n, reach, steps in (case for case in cases if case[0] == learner):
            if n in options.sizes:
                rounds, device = rounds_of(options), options.device
                figures += measure(learner, n, reach, steps, rounds, device, options.picker)
        if figures:
            name, title = f"realized-saving-{learner}{beside}", f"Saved time / compute, {learner}"
            publish(name, title + also, figures, options)


if __name__ == "__main__":
    main()
