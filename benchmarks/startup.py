"""How long it takes until a short run is there, over `python -c "import torch"`.

    python benchmarks/startup.py [--rounds 7]

Whole processes take turns, as a user starts them: installed package, default threads, no variables
of the environment that concern threads or bytecode. The run is `gstds run --dataset digits --policy
gstds --epochs 2`, with features and losses in the cache and, where it is tracked, a store that is
there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from interleaved import arguments, figure, interleave, publish, ratio, rounds_of

_MINE = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in _MINE}
GSTDS = str(Path(sys.executable).with_name("gstds"))
RUN = [GSTDS, "run", "--dataset", "digits", "--policy", "gstds", "--epochs", "2"]


def seconds(words: list[str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(words, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    return time.perf_counter() - began


def until_first_line(words: list[str], folder: Path) -> float:
    began = time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, **pipes) as process:
        process.stdout.readline()
        took = time.perf_counter() - began
        process.communicate()
    return took


def main() -> None:
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds(RUN, folder)  # makes the store, and fills the cache
        taken = interleave(
            {
                "torch": lambda: seconds([sys.executable, "-c", "import torch"], folder),
                "tracked": lambda: seconds(RUN, folder),
                "untracked": lambda: seconds([*RUN, "--no-tracking"], folder),
                "line": lambda: until_first_line([*RUN, "--no-tracking"], folder),
                "list": lambda: seconds([GSTDS, "list", "policies"], folder),
            },
            rounds_of(options),
        )
    torch = taken["torch"]
    cases = {
        "whole run, tracked in a store that is there": ("tracked", 3.0),
        "whole run, untracked": ("untracked", 2.2),
        "until the first line of a run": ("line", None),
        "gstds list policies": ("list", None),
    }
    figures = [
        figure(f"{case} / import torch", ratio(taken[key], torch), reach=reach, at_most=True,
               seconds=sorted(taken[key])[len(torch) // 2])
        for case, (key, reach) in cases.items()
    ]  # fmt: skip
    publish("startup", "From the command to a short run's end, over import torch", figures, options)


if __name__ == "__main__":
    main()
