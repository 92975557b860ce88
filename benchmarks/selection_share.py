"""What selection costs on the critical path, as a share of a full-batch step.

    python benchmarks/selection_share.py [--quick] [--rounds 5] [--policy gstds]

Everything between two updates that random keep would not pay: per round, the seconds of a step of
the policy outside loading and training, minus the same of `random`, over the whole step of `full`.
Scored ahead, in a thread while the batch before is trained on, and when asked. The difference of
whole steps, which also has what the thread takes from the learner, stands beside it.
Random images (28×28 for small-cnn, 32×32×3 for resnet18), features of the untrained Lite0, 1,280.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from interleaved import Figure, arguments, figure, interleave, publish, ratio, rounds_of
from stepping import Stepper, random_images

CASES = [("small-cnn", n, 0.05, 12) for n in (128, 256, 512, 1024)]
CASES += [("resnet18", n, 0.01, 1) for n in (128, 256, 1024)]
QUICK = (CASES[0],)


def measure(
    learner: str, n: int, reach: float, times: int, rounds: int, policy: str, device: str
) -> Iterator[Figure]:
    with random_images(learner, 4 * n, device) as data:
        common = {"batch_size": n, "schedule": "constant", "keep": 0.5}
        runs = {
            "ahead": Stepper.begin(policy, data, **common),
            "when asked": Stepper.begin(policy, data, ahead=False, **common),
            "random": Stepper.begin("random", data, **common),
            "full": Stepper.begin("full", data, batch_size=n),
        }
        whole: dict[str, list[float]] = {name: [] for name in runs}

        def several(name: str) -> float:
            steps = [runs[name].both() for _ in range(times)]
            whole[name].append(float(np.median([took for took, _ in steps])))
            return float(np.median([around for _, around in steps]))

        seconds = interleave({name: partial(several, name) for name in runs}, rounds)
    full = whole["full"][-rounds:]
    for form in ("ahead", "when asked"):
        gap = [a - b for a, b in zip(seconds[form], seconds["random"], strict=True)]
        steps = [a - b for a, b in zip(whole[form], whole["random"], strict=True)][-rounds:]
        yield figure(
            f"{policy}, {learner}, N = {n}, scored {form}",
            ratio(gap, full),
            reach=reach if form == "ahead" else None,
            at_most=True,
            whole_step_share=round(float(np.median(ratio(steps, full))), 4),
        )


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--policy", default="gstds")
    options = parser.parse_args()
    figures: list[Figure] = []
    for learner, n, reach, times in QUICK if options.quick else CASES:
        figures += measure(
            learner, n, reach, times, rounds_of(options), options.policy, options.device
        )
    publish(
        "selection-share", "Selection on the critical path / a full-batch step", figures, options
    )


if __name__ == "__main__":
    main()
