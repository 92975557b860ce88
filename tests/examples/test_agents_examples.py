from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_ppo_in_one_file_learns_on_the_environment(tiny_npz):
    options = ["--dataset", tiny_npz, "--learner", "mlp", "--decisions", "32", "--steps", "8"]
    options += ["--batch-size", "16"]
    script = ROOT / "examples" / "agents_cleanrl_ppo.py"
    done = subprocess.run(
        [sys.executable, str(script), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2
    assert "reward of the last 20: " in lines[-1]


@pytest.mark.slow
def test_torchrl_accepts_the_environment_and_learns_on_it(tiny_npz):
    pytest.importorskip("torchrl", reason="TorchRL is not installed: pip install torchrl")
    options = ["--dataset", tiny_npz, "--learner", "mlp", "--decisions", "32", "--rollout", "16"]
    options += ["--batch-size", "16"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "agents_torchrl.py"), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "check_env_specs succeeded" in done.stdout + done.stderr
    assert "reward of the last 20: " in done.stdout.strip().splitlines()[-1]
