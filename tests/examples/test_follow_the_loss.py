from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_schedule_of_ones_own_runs_from_its_folder(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "gstds.train.cli.main", "run"]
    options = {
        "--policy": "follow_the_loss:FollowTheLoss",
        "--picker": "uniform",
        "--dataset": "digits",
        "--limit": "256",
        "--learner": "mlp",
        "--epochs": "8",
        "--batch-size": "32",
        "--out": str(tmp_path / "run"),
        "--json": str(out),
    }
    arguments = [word for pair in options.items() for word in pair]
    done = subprocess.run(
        [*command, *arguments, "--no-tracking"],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    run = json.loads(out.read_text())["runs"][0]
    keeps = [row["keep_ratio"] for row in run["history"]]
    assert run["status"] == "finished"
    assert keeps[-1] < keeps[0] < 0.85  # the loss falls, and so does what is kept
    assert keeps[-1] >= 0.2 - 1 / 64
