"""How long it takes until a short run is there, over `python -c "import torch"`.

    python benchmarks/startup.py [--rounds 7]

Whole processes take turns, as a user starts them: installed package, default threads, no variables
of the environment that concern threads or bytecode. The run is `gstds run --dataset digits --policy
gstds --epochs 2`, with features and losses in the cache and, where it is tracked, a store that is
there.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
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
    """Return when the first line stands on a terminal."""
    master, slave = pty.openpty()
    began = time.perf_counter()
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    with subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, **streams) as process:
        os.close(slave)
        took = 0.0
        with contextlib.suppress(OSError):  # how a terminal says that its last writer is gone
            while os.read(master, 4096):
                took = took or time.perf_counter() - began
        process.wait()
    os.close(master)
    return took


def until_first_update(words: list[str], folder: Path) -> float:
    """Return when the first step was logged."""
    out = folder / f"run-{time.monotonic_ns()}"
    began = time.time()
    seconds([*words, "--out", str(out)], folder)
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return float(next(line["time"] for line in lines if line["kind"] == "metrics") / 1000 - began)


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
                "update": lambda: until_first_update([*RUN, "--no-tracking"], folder),
                "line": lambda: until_first_line([*RUN, "--no-tracking"], folder),
                "list": lambda: seconds([GSTDS, "list", "policies"], folder),
            },
            rounds_of(options),
        )
    torch = taken["torch"]
    cases = {
        "whole run, tracked in a store that is there": ("tracked", 3.0),
        "whole run, untracked": ("untracked", 2.2),
        "until the first update": ("update", 2.0),
    }
    figures = [
        figure(f"{case} / import torch", ratio(taken[key], torch), reach=reach, at_most=True,
               seconds=sorted(taken[key])[len(torch) // 2])
        for case, (key, reach) in cases.items()
    ]  # fmt: skip
    for case, key in (("the first line on a terminal", "line"), ("gstds list policies", "list")):
        figures.append(figure(f"seconds until {case}", taken[key], reach=0.3, at_most=True))
    publish("startup", "From the command to a short run's end, over import torch", figures, options)


if __name__ == "__main__":
    main()
