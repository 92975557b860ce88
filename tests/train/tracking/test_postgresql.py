"""PostgreSQL as the tracking store, for real: Debian's server, on the loopback address."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from gstds.train.cli.main import main

pytestmark = pytest.mark.slow

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "made-up-for-the-test"  # noqa: S105


@pytest.fixture
def address(free_port):
    pytest.importorskip("psycopg2", reason="psycopg2-binary is not installed: make setup")
    if not PROGRAMS:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    as_user = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="gstds-pg-"))
    shutil.chown(folder, user)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    shutil.chown(secret, user)

    def run(program, *words):
        command = [*as_user, PROGRAMS[-1] / program, *words]
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd="/")

    data = folder / "data"
    run("initdb", "-D", data, "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={secret}")
    options = f"-p {free_port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    yield f"postgresql+psycopg2://mlflow:{PASSWORD}@127.0.0.1:{free_port}/postgres"
    run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_a_comparison_is_kept_in_postgresql(address, tmp_path, monkeypatch, capsys, tiny_npz):
    import mlflow

    monkeypatch.chdir(tmp_path)
    words = ["compare", "--policies", "random", "full", "--seeds", "1", "--dataset", tiny_npz]
    words += ["--batch-size", "32", "--epochs", "2", "--tracking-uri", address, "--out", "c"]
    assert main([*words, "--json", "c.json"]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err
    for path in (tmp_path / "c").rglob("*.json"):
        assert PASSWORD not in path.read_text(), path
    assert main(["sync", "c", "--tracking-uri", address]) == 0
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name("gstds")
    runs = client.search_runs([experiment.experiment_id])
    content = json.loads((tmp_path / "c.json").read_text())
    for run in content["runs"]:
        kept = next(r for r in runs if r.data.tags["gstds.run_id"] == run["run_id"])
        assert kept.info.status == "FINISHED"
        assert kept.data.metrics["final/test_accuracy"] == pytest.approx(run["test_accuracy"])
        points = client.get_metric_history(kept.info.run_id, "cost/charged_flops")
        assert [p.value for p in points] == sorted(p.value for p in points)
