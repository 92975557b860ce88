from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.goldens.record import KINDS, PINNED, POLICIES, without_clocks

FILE = Path(__file__).parent / "goldens" / "answers.json"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Today's answers and the recorded ones; without bits where this machine's are others."""
    folder = tmp_path_factory.mktemp("goldens")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | PINNED | {"PYTHONPATH": path, "GSTDS_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "tests.goldens.record", str(folder / "today.json")]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    today, golden = json.loads((folder / "today.json").read_text()), json.loads(FILE.read_text())
    return today, golden


def agree(today, golden, same_bits, where=""):
    """Every difference between two JSON values; numbers may be near where bits are others."""
    if isinstance(golden, dict) and isinstance(today, dict):
        keys = [f"{where}: {k} on one side only" for k in today.keys() ^ golden.keys()]
        both = today.keys() & golden.keys()
        return keys + [
            found
            for key in sorted(both)
            if same_bits or key not in ("weights_sha256", "p_value", "sign_flip_p", "effect_size")
            for found in agree(today[key], golden[key], same_bits, f"{where}/{key}")
        ]
    if isinstance(golden, list) and isinstance(today, list) and len(golden) == len(today):
        pairs = enumerate(zip(today, golden, strict=True))
        return [f for i, (t, g) in pairs for f in agree(t, g, same_bits, f"{where}[{i}]")]
    numbers = isinstance(golden, float) and isinstance(today, float)
    near = numbers and not same_bits and math.isclose(today, golden, rel_tol=0.1, abs_tol=0.1)
    return [] if near or today == golden else [f"{where}: {golden!r} is now {today!r}"]


@pytest.mark.parametrize("part", ["runs", "json"])
def test_results_are_what_they_were(answers, part):
    today, golden = answers
    assert agree(today[part], golden[part], today["canary"] == golden["canary"]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_lists_are_what_they_were(answers, kind):
    today, golden = answers
    assert today["lists"][kind] == golden["lists"][kind]


def test_the_goldens_hold_twelve_policies_in_two_settings_that_differ():
    runs = json.loads(FILE.read_text())["runs"]
    digests = {name: run["weights_sha256"] for name, run in runs.items()}
    # Half of three epochs is one that is full and one that ends beyond InfoBatch's delta.
    same = digests.pop("infobatch, equal-budget")
    assert same == digests["full, equal-budget"]
    assert len(set(digests.values())) == len(digests) == 2 * len(POLICIES) - 1 == 23


def test_a_changed_digest_is_found_and_a_changed_clock_is_not():
    run = {"weights_sha256": "a", "seconds": 1.0, "mean_keep": 0.5}
    other = run | {"weights_sha256": "b", "seconds": 2.0}
    assert agree(without_clocks(other), without_clocks(run), True) == [
        "/weights_sha256: 'a' is now 'b'"
    ]
    assert agree(without_clocks(run | {"seconds": 9.0}), without_clocks(run), True) == []
