from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lines_of(script, dataset, *options):
    """Run an example on a tiny data set; return what it said, line by line."""
    words = ["--dataset", dataset, "--learner", "mlp", "--batch-size", "16", *options]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines(), done.stderr


@pytest.mark.slow
def test_a_ppo_in_one_file_learns_on_the_environment(tiny_npz):
    options = ["--decisions", "32", "--steps", "8"]
    lines, _ = lines_of("agents_cleanrl_ppo.py", tiny_npz, *options)
    assert len(lines) == 2
    assert "reward of the last 20: " in lines[-1]


@pytest.mark.slow
def test_torchrl_accepts_the_environment_and_learns_on_it(tiny_npz):
    pytest.importorskip("torchrl", reason="TorchRL is not installed: pip install torchrl")
    options = ["--decisions", "32", "--rollout", "16"]
    lines, errors = lines_of("agents_torchrl.py", tiny_npz, *options)
    assert "check_env_specs succeeded" in "".join(lines) + errors
    assert "reward of the last 20: " in lines[-1]
