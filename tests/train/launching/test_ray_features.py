"""``gstds features --ray``: a cluster of this machine builds the store that one process builds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gstds.store.feature_store import open_losses

pytestmark = pytest.mark.slow

ROWS, CHUNK = 7000, 1024

NETWORK = """
import os, signal, time
from pathlib import Path
import torch

HERE = Path(__file__).parent

def rows():
    def compute(images):
        if len(images) > 2:  # not the two that say how many features there are
            with open(HERE / "calls", "a") as calls:
                calls.write(f"{os.getpid()} {len(images)}\\n")
            if (HERE / "die").exists() and not (HERE / "died").exists():
                (HERE / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(float((HERE / "pause").read_text()))
        return images.float().mean(3).flatten(1)
    return compute

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("process", torch.tensor([float(os.getpid())]))

    def forward(self, images):
        return images.float().mean(3).flatten(1)

def broken():
    def compute(images):
        if len(images) > 2:
            raise KeyError("no such thing")
        return images.float().mean(3).flatten(1)
    return compute
"""


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("ray")
    rng = np.random.default_rng(0)
    y = np.arange(2 * ROWS) % 4
    x = rng.integers(0, 60, size=(2 * ROWS, 8, 8))
    for label in range(4):
        x[y == label, 2 * label : 2 * label + 2] += 150
    np.savez(tmp_path / "many.npz", X=x.astype(np.uint8), y=y)
    (tmp_path / "plug.py").write_text(NETWORK)
    (tmp_path / "pause").write_text("0")
    return tmp_path


def start(folder, cache, *more, reference="plug:rows", dataset=None):
    data = dataset or f"npz:{folder / 'many.npz'}"
    words = [sys.executable, "-m", "gstds.train.cli.main", "features", "--dataset", data, "--quiet"]
    return subprocess.Popen(
        [*words, "--reference", reference, "--device", "cpu", "--limit", str(ROWS), *more],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "GSTDS_CACHE": str(folder / cache)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert "Traceback" not in err, err
    return out + err


def store_of(cache):
    (folder,) = (cache / "features").iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def losses_of(cache):
    (path,) = (cache / "losses").iterdir()
    return open_losses(path)[0]


def wait_for(condition, process):
    end = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_store_of_a_cluster_is_that_of_one_process(folder):
    options = {"reference": "untrained", "dataset": "digits"}
    limit = ("--limit", "1100")  # two chunks
    alone = finish(start(folder, "alone", *limit, **options))
    assert (
        finish(start(folder, "ray", *limit, "--ray", "local", **options)).replace(
            str(folder / "ray"), str(folder / "alone")
        )
        == alone
    )
    found, wanted = store_of(folder / "ray"), store_of(folder / "alone")
    assert set(wanted) == {"features.npy", "rows.crc32", "manifest.json"}
    assert found == wanted
    np.testing.assert_array_equal(losses_of(folder / "ray"), losses_of(folder / "alone"))


def test_shortened_features_of_a_cluster_are_those_of_one_process(folder):
    short = ("--compress", "pca-8-int8")
    finish(start(folder, "alone", *short))
    finish(start(folder, "ray", *short, "--ray", "local"))
    assert b'"projection": "pca"' in store_of(folder / "ray")["manifest.json"]
    assert store_of(folder / "ray") == store_of(folder / "alone")


def test_a_worker_and_then_the_command_die_and_the_next_one_goes_on(folder):
    finish(start(folder, "alone"))
    (folder / "calls").unlink()
    (folder / "die").touch()
    (folder / "pause").write_text("0.1")
    process = start(folder, "ray", "--ray", "local")

    def written():
        return sum(path.read_text().count("\n") - 1 for path in journal())

    def journal():
        return (folder / "ray").glob("features/*/journal.jsonl")

    wait_for(lambda: written() >= 2, process)
    assert (folder / "died").exists()  # and its rows were computed nevertheless
    process.send_signal(signal.SIGKILL)
    finish(process, -signal.SIGKILL)
    before = written()
    assert 2 <= before < -(-ROWS // CHUNK)
    time.sleep(3)  # workers notice that nobody is left
    (folder / "calls").unlink()
    (folder / "pause").write_text("0")
    finish(start(folder, "ray", "--ray", "local", "--verify"))
    assert store_of(folder / "ray") == store_of(folder / "alone")
    calls = [line.split() for line in (folder / "calls").read_text().splitlines()]
    assert sum(int(size) for _, size in calls) == ROWS - before * CHUNK
    assert str(process.pid) not in {pid for pid, _ in calls}


def test_a_node_with_another_reference_is_refused(folder):
    said = finish(start(folder, "ray", "--ray", "local", reference="plug:Own"), 2)
    assert "a node of the Ray cluster would build the store plug-" in said
    assert said.count("\n") == 1
    assert not list((folder / "ray").glob("features/*/manifest.json"))


def test_what_fails_on_a_node_is_told_in_one_line(folder):
    said = finish(start(folder, "ray", "--ray", "local", reference="plug:broken"), 2)
    assert "features of rows 0 to 1023 on the Ray cluster" in said
    assert "no such thing" in said
    assert said.count("\n") == 1


def test_an_address_where_nobody_answers_is_told(folder, free_port):
    said = finish(start(folder, "ray", "--ray", f"127.0.0.1:{free_port}"), 2)
    assert f"no Ray cluster answers at '127.0.0.1:{free_port}'" in said
