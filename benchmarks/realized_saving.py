"""Realized saving: how much of the saved compute is saved time, (T_full/T)/(C_full/C).

    python benchmarks/realized_saving.py [--quick] [--rounds 5]

The baseline gstds with its sigmoid at mean keep .53 and .25: in each round it takes one step at
each of 8 equally spaced points of the schedule, and `full` takes 8 steps. T is the steps' seconds,
C their charged operations. Every kept count was met before; how much longer the first meeting of a
count takes, whose kernels are made then, stands beside it.
"""

from __future__ import annotations

import numpy as np
from interleaved import arguments, figure, interleave, publish, ratio, rounds_of
from stepping import Spread, Stepper, random_images, several

from gstds.schedules import make_schedule

STEPS = 8
KEEPS = (0.53, 0.25)
CASES = [("small-cnn", 128, 0.8), ("small-cnn", 256, 0.8)]
CASES += [("resnet18", 128, 0.9), ("resnet18", 256, 0.95)]


def measure(learner: str, n: int, reach: float, keeps, steps: int, rounds: int):
    with random_images(learner, 4 * n) as data:
        full = Stepper.begin("full", data, batch_size=n)
        runs = {}
        for keep in keeps:
            policy = Spread(make_schedule("sigmoid", keep=keep, unit="steps"), steps)
            runs[keep] = Stepper.begin(policy, data, batch_size=n)
        firsts = {keep: [run.step() for _ in range(steps)] for keep, run in runs.items()}
        runners = {"full": several(full.step, steps)}
        runners |= {str(keep): several(run.step, steps) for keep, run in runs.items()}
        before = {str(keep): run.charged for keep, run in runs.items()}
        seconds = interleave(runners, rounds)
        for keep, run in runs.items():
            compute = (run.charged - before[str(keep)]) / (rounds + 1)
            whole = steps * n * full.env.sample_flops
            values = [t / (whole / compute) for t in ratio(seconds["full"], seconds[str(keep)])]
            first = sum(firsts[keep]) / float(np.median(seconds[str(keep)]))
            yield figure(
                f"{learner}, N = {n}, mean keep {keep}",
                values,
                reach=reach,
                relative_compute=round(compute / whole, 4),
                first_meeting_over_later=round(first, 2),
            )


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    figures = []
    for learner, n, reach in [CASES[0]] if options.quick else CASES:
        keeps = KEEPS
        for item in measure(learner, n, reach, keeps, STEPS, rounds_of(options)):
            figures.append(item)
            print(item.case, f"{item.value:.3f}", item.more, flush=True)
    publish("realized-saving", "Saved time / saved compute", figures, options)


if __name__ == "__main__":
    main()
