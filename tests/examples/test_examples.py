from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def accuracy_of(script, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return float(re.search(r"accuracy ([\d.]+)", done.stdout)[1]), done.stdout


@pytest.mark.parametrize("policy", ["gstds", "infobatch"])
def test_a_plain_loop(policy):
    assert accuracy_of("plain_loop.py", "--policy", policy)[0] > 0.7


def test_workers_load_what_is_kept():
    accuracy, said = accuracy_of("dataloader_workers.py")
    loaded, drawn = map(int, re.search(r"loaded (\d+) of (\d+)", said).groups())
    assert accuracy > 0.7
    assert loaded < 0.6 * drawn


def test_two_processes():
    assert accuracy_of("ddp.py")[0] > 0.7
