"""Threads that sleep while they wait, or spin: an update of the learner, alone or beside a process.

    python benchmarks/waiting.py [--quick] [--rounds 5]

The command line lets OpenMP's threads sleep (OMP_WAIT_POLICY=PASSIVE unless the environment says
otherwise), which is read once, so each way is a process of its own; they take turns. Above 1
spinning is faster. `beside a busy process`: another keeps one core busy all the while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from interleaved import Figure, arguments, figure, interleave, publish, ratio, rounds_of

CASES = [("mlp", 64, 60), ("small-cnn", 32, 20), ("small-cnn", 128, 10)]
WAYS = ("PASSIVE", "ACTIVE")
UPDATES = """
import sys, time
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from mends import learner, updating

update = updating(learner(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
update()
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    update()
    print(time.perf_counter() - began, flush=True)
"""


class Remote:
    """A process with its own way of waiting, which updates when asked."""

    def __init__(self, way: str, learner: str, count: int, times: int) -> None:
        here = os.path.dirname(os.path.abspath(__file__))
        words = [here, os.path.dirname(here), learner, str(count), str(times)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", UPDATES, *words],
            env=os.environ | {"OMP_WAIT_POLICY": way},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._told()

    def _told(self) -> str:
        told = self.process.stdout.readline() if self.process.stdout else ""
        self.process.send_signal(signal.SIGSTOP)  # its threads would spin through others' turns
        return told

    def __call__(self) -> float:
        self.process.send_signal(signal.SIGCONT)
        if self.process.stdin:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return float(self._told())


@contextlib.contextmanager
def busy(wanted: bool) -> Iterator[None]:
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if other:
            other.kill()
            other.wait()


def measure(learner: str, count: int, times: int, rounds: int) -> Iterator[Figure]:
    for beside in (False, True):
        remotes = {way: Remote(way, learner, count, times) for way in WAYS}
        with busy(beside):
            seconds = interleave(dict(remotes), rounds)
        for remote in remotes.values():
            remote.process.kill()
            remote.process.wait()
        where = "beside a busy process" if beside else "alone"
        case = f"{learner}, an update on {count}, {where}: asleep / spinning"
        yield figure(case, ratio(seconds["PASSIVE"], seconds["ACTIVE"]))


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    figures: list[Figure] = []
    for learner, count, times in CASES[1:2] if options.quick else CASES:
        figures += measure(learner, count, times, rounds_of(options))
    publish("waiting", "Threads asleep / spinning while they wait", figures, options)


if __name__ == "__main__":
    main()
