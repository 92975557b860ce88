"""What selection costs on the critical path, as a share of a full-batch step.

    python benchmarks/selection_share.py [--quick] [--rounds 7] [--policy gstds]

Everything between two updates that random keep would not pay: per round, the seconds of a step of
the policy outside loading and training, minus the same of `random`, over the whole step of `full`.
Random images (28×28 for small-cnn, 32×32×3 for resnet18), features of the untrained Lite0, 1,280.
"""

from __future__ import annotations

import numpy as np
from interleaved import arguments, figure, interleave, publish, rounds_of
from stepping import Stepper, random_images

CASES = [("small-cnn", n, 0.05, 12) for n in (128, 256, 512, 1024)]
CASES += [("resnet18", n, 0.01, 1) for n in (128, 256, 512, 1024)]
QUICK = (CASES[0], CASES[2], CASES[4])


def measure(learner: str, n: int, times: int, rounds: int, policy: str, reach: float):
    with random_images(learner, 4 * n) as data:
        common = {"batch_size": n, "schedule": "constant", "keep": 0.5}
        chosen = Stepper.begin(policy, data, **common)
        random = Stepper.begin("random", data, **common)
        full = Stepper.begin("full", data, batch_size=n)
        runners = {
            "chosen": lambda: float(np.median([chosen.around() for _ in range(times)])),
            "random": lambda: float(np.median([random.around() for _ in range(times)])),
            "full": lambda: float(np.median([full.step() for _ in range(times)])),
        }
        seconds = interleave(runners, rounds)
    shares = [
        (own - other) / whole
        for own, other, whole in zip(*(seconds[k] for k in runners), strict=True)
    ]
    milliseconds = {k: round(1e3 * float(np.median(v)), 2) for k, v in seconds.items()}
    case = f"{policy}, {learner}, N = {n}"
    return figure(case, shares, reach=reach, at_most=True, milliseconds=milliseconds)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--policy", default="gstds")
    options = parser.parse_args()
    figures = []
    for learner, n, reach, times in QUICK if options.quick else CASES:
        figures.append(measure(learner, n, times, rounds_of(options), options.policy, reach))
        print(figures[-1].case, f"{figures[-1].value:.4f}", figures[-1].more, flush=True)
    publish(
        "selection-share", "Selection on the critical path / a full-batch step", figures, options
    )


if __name__ == "__main__":
    main()
