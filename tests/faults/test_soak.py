"""A run of very many tiny steps: its memory and its open files stay as they are."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gstds.common.state import save_state
from gstds.envs import DataSelectionEnv
from tests.counts import counts

LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
TENTHS = 10


def resident() -> int:
    """Return the process's memory in bytes, garbage collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


OPTIONS = {"learner": "mlp", "batch_size": 8, "reward": "none", "observe": ()}
WEIGHTS = np.array([1, 0, 0, 1, 0, 0, 0, 1], np.float32)
SAVE_EVERY = 500
BLOCK = 2_000
ROUNDS = 15


def steps(env, count: int, folder: Path) -> float:
    """Take so many steps with their checkpoints; return the seconds of this process's own."""
    start = time.process_time()  # whatever else the machine does
    for step in range(count):
        env.step(WEIGHTS)
        if step % SAVE_EVERY == 0:
            save_state(folder, env.step_count, env.state_dict())
    return time.process_time() - start


def begun(data: str, cases: int):
    env = DataSelectionEnv(dataset=data, epochs=cases, **OPTIONS)
    env.reset(seed=0)
    return env


YOUNG = """
import sys
from pathlib import Path
from tests.faults.test_soak import BLOCK, begun, steps

env, folder = begun(sys.argv[1], int(sys.argv[2])), Path(sys.argv[3])
steps(env, BLOCK, folder)
print("ready", flush=True)
for _ in sys.stdin:
    print(steps(env, BLOCK, folder), flush=True)
"""


def speed_of_a_young_run(env, data: str, cases: int, folder: Path) -> float:
    """Return the seconds of a step of a process just started over those of this run.

    The two take turns on the same machine, so that its noise is in both; the median of the turns.
    """
    command = [sys.executable, "-c", YOUNG, data, str(cases), str(folder / "young")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as young:
        assert young.stdout.readline() == "ready\n"
        ratios = []
        for _ in range(ROUNDS):
            own = steps(env, BLOCK, folder / "checkpoints")
            young.stdin.write("\n")
            young.stdin.flush()
            ratios.append(float(young.stdout.readline()) / own)
        young.stdin.close()
    return statistics.median(ratios)


@LINUX
@counts(slow=10_000, soak=2_000_000)
def test_memory_and_files_stay_flat_over_many_steps(cases, tiny_npz, tmp_path):
    env = begun(tiny_npz, cases)
    memory, files, seconds, speeds = [], [], [], []
    for tenth in range(TENTHS):
        compared = cases >= 1_000_000 and tenth in (0, TENTHS - 1)
        count = cases // TENTHS - (ROUNDS * BLOCK if compared else 0)
        seconds.append(steps(env, count, tmp_path / "checkpoints") / count)
        if compared:
            speeds.append(speed_of_a_young_run(env, tiny_npz, cases, tmp_path))
        memory.append(resident())
        files.append(open_files())
        print(f"{env.step_count:,} steps: {memory[-1]:,} bytes, {seconds[-1]:.6f} s", flush=True)
    print(f"{cases} steps: memory {memory[1]:,} to {memory[-1]:,}, speed {speeds}")
    assert env.step_count == cases
    # The first tenth fills the caches of torch and of the allocator.
    assert max(memory[1:]) <= 1.02 * memory[1]
    assert len(set(files)) == 1
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


RUNS = """
import ctypes, gc, json, os, sys
import torch
from gstds.train.running.options import config_from
from gstds.train.running.run import execute

torch.set_num_threads(1)
data, folder, cases = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = {"dataset": data, "policy": "random", "learner": "mlp", "epochs": 1}

class Mallinfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

allocator = ctypes.CDLL(None)
allocator.mallinfo2.restype = Mallinfo

def seen():
    gc.collect()
    told = allocator.mallinfo2()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return told.uordblks + told.hblkhd, pages, len(os.listdir("/proc/self/fd"))

def run(number):
    result = execute(config_from(options), f"{folder}/{number}", checkpoint_every=1)
    assert result["status"] == "finished"

for number in range(20):
    run(number)
before = seen()
for number in range(20, 20 + cases):
    run(number)
print(json.dumps([before, seen()]))
"""


@LINUX
@counts(slow=20, soak=1000)
def test_runs_one_after_another_leave_nothing_in_the_process(cases, tiny_npz, tmp_path):
    # In a process of its own: what other tests gave back to the allocator would hide a leak.
    command = [sys.executable, "-c", RUNS, tiny_npz, str(tmp_path), str(cases)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (used, pages, files), (used_after, pages_after, files_after) = json.loads(told.splitlines()[-1])
    print(f"\n{cases} runs: {used:,} to {used_after:,} bytes in use, {pages:,} to {pages_after:,}")
    assert files_after == files
    # Bytes in use: about 500 a run are the interpreter's own. Of the pages the allocator keeps
    # some after a figure was drawn and gives them back later: they come and go by 10 to 30 MB.
    assert used_after <= used + 1_000_000 + 2_000 * cases
    assert pages_after <= 1.02 * pages + 60_000_000
