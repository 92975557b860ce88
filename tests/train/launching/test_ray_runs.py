"""A comparison over a Ray cluster of two nodes on this machine, with a worker killed on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gstds.train.tracking.store import client
from tests.stores import stored

pytestmark = pytest.mark.slow


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


def words(data, out, *more):
    found = [
        sys.executable,
        "-m",
        "gstds.train.cli.main",
        "compare",
        "--policies",
        "random",
        "full",
    ]
    found += ["--seeds", "2", "--dataset", data, "--batch-size", "16", "--learner", "mlp"]
    found += ["--learning-rate", "0.01", "--epochs", "40", "--checkpoint-every", "25"]
    found += ["--no-controls", "--threads", "1"]
    return [*found, "--out", out, "--json", f"{out}.json", *more]


def start(folder, command):
    environment = os.environ | TOKEN | {"PYTHONPATH": os.getcwd()}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code):
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, out + err
    assert "Traceback" not in err, err
    return out + err


def weights(folder, name):
    content = json.loads((folder / f"{name}.json").read_text())
    assert {run["status"] for run in content["runs"]} == {"finished"}
    return {(run["policy"], run["seed"]): run["weights_sha256"] for run in content["runs"]}


def running_tasks():
    """Process id and parent (the node's own process) of each run that goes on."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = (place / "cmdline").read_text()
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if title.startswith("ray::run_task"):
            found[int(place.name)] = parent
    return found


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


CLUSTER = """
import sys
import ray
from ray.cluster_utils import Cluster
options = {"num_cpus": 1, "object_store_memory": 10**8}
one = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
one.add_node(**options)
one.wait_for_nodes()
print("address", one.address, flush=True)
sys.stdin.read()
one.shutdown()
"""


@pytest.fixture(scope="module")
def cluster():
    """The address of two nodes of one processor each, in a process that sets their token first."""
    pytest.importorskip("ray")
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=os.environ | TOKEN | {"PYTHONPATH": os.getcwd()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield next(line.split()[1] for line in process.stdout if line.startswith("address"))
    process.communicate(timeout=120)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    import numpy as np

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    x = rng.integers(0, 60, size=(200, 8, 8))
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2] += 150
    np.savez(folder / "tiny.npz", X=x.astype(np.uint8), y=y)
    return f"npz:{folder / 'tiny.npz'}"


def test_two_nodes_give_the_runs_of_one_process_though_a_worker_dies(
    cluster, data, tmp_path, store_uri
):
    finish(start(tmp_path, words(data, "plain", "--no-tracking")), 0)
    command = words(data, "ray", "--ray", cluster, "--tracking-uri", store_uri)
    process = start(tmp_path, command)
    results = tmp_path / "ray" / "runs"
    wait_for(lambda: len(running_tasks()) == 2, process)
    nodes = set(running_tasks().values())
    assert len(nodes) == 2, "both nodes are at work"
    wait_for(lambda: list(results.glob("*/checkpoints/*.json")), process)
    victim = min(running_tasks())
    os.kill(victim, signal.SIGKILL)
    finish(process, 0)
    assert weights(tmp_path, "ray") == weights(tmp_path, "plain")
    store = client(store_uri)
    for run in json.loads((tmp_path / "ray.json").read_text())["runs"]:
        record = stored(store_uri, tmp_path, run)
        history = store.get_metric_history(record.info.run_id, "val/accuracy")
        assert sorted(point.step for point in history) == [row["step"] for row in run["history"]]
        assert record.info.status == "FINISHED"
    experiment = store.get_experiment_by_name("gstds").experiment_id
    there = [r for r in store.search_runs([experiment]) if "seed" in r.data.tags]
    assert len(there) == 4


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_driver_goes_on_where_it_was(cluster, data, tmp_path, stop):
    command = words(data, "cut", "--ray", cluster, "--no-tracking")
    process = start(tmp_path, command)
    wait_for(lambda: list((tmp_path / "cut").glob("runs/*/result.json")), process)
    process.send_signal(stop)
    finish(process, 130 if stop == signal.SIGTERM else -9)
    first = {
        path: path.read_bytes()
        for path in (tmp_path / "cut").glob("runs/*/result.json")
        if json.loads(path.read_text())["status"] == "finished"
    }
    assert first
    finish(start(tmp_path, command), 0)
    assert all(path.read_bytes() == content for path, content in first.items())
    assert len(weights(tmp_path, "cut")) == 4
    assert not list((tmp_path / "cut").rglob(".seen-*")), "what a killed driver left is taken away"


def test_what_the_cluster_cannot_give_is_said_at_once(cluster, data, tmp_path):
    command = words(data, "none", "--no-tracking", "--ray", cluster, "--device", "cuda")
    said = finish(start(tmp_path, command), 2)
    assert "device 'cuda' needs a GPU, and the Ray cluster" in said
    assert said.count("\n") == 1


def test_a_node_says_which_files_it_does_not_see(cluster, data, tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gstds.train.launching.ray_tasks import ray_cluster, see_files\n"
        "import ray\n"
        "with ray_cluster(sys.argv[1]):\n"
        "    look = ray.remote(num_cpus=0)(see_files)\n"
        "    print(ray.get(look.remote(['/', '/not/there'])))\n"
    )
    said = finish(start(tmp_path, [sys.executable, "-c", code, cluster]), 0)
    assert said.strip().endswith("['/not/there']")


def test_addresses_where_nobody_answers(data, tmp_path, free_port):
    command = words(data, "none", "--no-tracking")
    said = finish(start(tmp_path, [*command, "--ray", f"127.0.0.1:{free_port}"]), 2)
    assert f"no Ray cluster answers at '127.0.0.1:{free_port}'" in said
    with socket.create_server(("127.0.0.1", 0)) as silent:  # somebody listens, but is no Ray
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        said = finish(start(tmp_path, [*command, "--ray", address]), 2)
    assert f"no Ray cluster answers at '{address}'" in said
    assert "ray start --head" in said
