"""A run stopped by a signal, and a comparison in worker processes, as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

GSTDS = [sys.executable, "-m", "gstds.train.cli.main"]


def start(folder, *words):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.Popen(
        [*GSTDS, *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out + err


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def options(tiny_npz, *more):
    words = ["--dataset", tiny_npz, "--batch-size", "16", "--learner", "mlp", "--no-tracking"]
    words += ["--learning-rate", "0.01"]
    return [*words, "--checkpoint-every", "20", *more]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_result_of_one_that_was_not(tmp_path, tiny_npz, stop):
    words = ["run", *options(tiny_npz, "--policy", "random", "--epochs", "150")]
    finish(start(tmp_path, *words, "--out", "whole", "--json", "whole.json"), 0)
    process = start(tmp_path, *words, "--out", "cut")
    wait_for(lambda: list((tmp_path / "cut").glob("checkpoints/*")), process)
    process.send_signal(stop)
    said = finish(process, -9 if stop == signal.SIGKILL else 130)
    assert not (tmp_path / "cut" / "result.json").exists() or stop != signal.SIGKILL
    if stop != signal.SIGKILL:
        assert "gstds run --resume cut" in said
    resume = ["run", "--resume", "cut", "--no-tracking", "--json", "cut.json"]
    finish(start(tmp_path, *resume), 0)
    whole, cut = (
        json.loads((tmp_path / f"{name}.json").read_text())["runs"][0] for name in ("whole", "cut")
    )
    for name in ("weights_sha256", "test_accuracy", "charged_flops", "steps", "mean_keep"):
        assert whole[name] == cut[name], name
    assert cut["status"] == "finished"


def test_two_workers_give_the_runs_of_one(tmp_path, tiny_npz):
    words = ["compare", "--policies", "random", "full", "--seeds", "2", "--threads", "1"]
    words += options(tiny_npz, "--epochs", "3")
    finish(start(tmp_path, *words, "--out", "one", "--json", "one.json"), 0)
    finish(start(tmp_path, *words, "--out", "two", "--json", "two.json", "--workers", "2"), 0)
    one, two = (
        {
            (run["policy"], run["seed"]): run["weights_sha256"]
            for run in json.loads((tmp_path / f"{name}.json").read_text())["runs"]
        }
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 4
