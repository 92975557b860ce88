"""A run that gets no more memory: the limit is the operating system's, the refusal torch's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.stores import delivered

LEARNER = """
import resource
from pathlib import Path
import torch

def limit_to_what_is_used():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))

class Hungry(torch.nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, classes))
        self.calls = 0
    def forward(self, x):
        self.calls += self.training
        if self.calls == 20 and Path("hungry").exists():
            limit_to_what_is_used()
            torch.ones(2**28)
        return self.layers(x)

def make(shape, classes): return Hungry(shape, classes)
"""


def gstds(folder, *words):
    command = [sys.executable, "-m", "gstds.train.cli.main", "run", *words]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_a_run_that_gets_no_memory_fails_by_name_and_goes_on_later(tmp_path, tiny_npz, store_uri):
    (tmp_path / "feeding.py").write_text(LEARNER)
    options = ["--policy", "random", "--dataset", tiny_npz, "--batch-size", "16", "--epochs", "5"]
    options += ["--learner", "feeding:make", "--tracking-uri", store_uri, "--quiet"]
    assert gstds(tmp_path, *options, "--out", "whole").returncode == 0
    (tmp_path / "hungry").touch()
    failed = gstds(tmp_path, *options, "--out", "cut")
    assert failed.returncode == 1
    assert "can't allocate memory" in failed.stderr
    assert "run failed at step" in failed.stderr
    assert "Traceback" not in failed.stderr
    (tmp_path / "hungry").unlink()
    resumed = gstds(tmp_path, "--resume", "cut", "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    whole, cut = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "cut")
    )
    for key in ("weights_sha256", "test_accuracy", "charged_flops", "steps"):
        assert cut[key] == whole[key]
    assert delivered(store_uri, tmp_path / "cut").info.status == "FINISHED"
