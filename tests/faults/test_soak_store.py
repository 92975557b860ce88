"""Very many points into one store, by two processes at once: every one stands there once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time

import pytest

from gstds.train.tracking.store import client
from gstds.train.tracking.uploader import undelivered
from tests.counts import counts

POINTS = 10_000
EACH = 20

LOGS = """
import sys
from pathlib import Path
from gstds.train.tracking.log import RunLog
from gstds.train.tracking.uploader import Upload
uri, folder, first, runs, points, each = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
for number in range(first, first + runs):
    place = Path(folder) / str(number)
    log, upload = RunLog(place), Upload(uri)
    upload.begin(place, log.begin(name=f"many-{number}", params={"number": number}, tags={}))
    for step in range(points // each):
        log.log({f"part/m{i}": float(step * each + i) for i in range(each)}, step)
    log.finish("finished")
    upload.remind()
"""


@counts(slow=4, soak=200)
def test_many_runs_of_ten_thousand_points_in_one_store(cases, store_uri, tmp_path):
    began = time.perf_counter()
    half = cases // 2
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOGS, store_uri, str(tmp_path / f"runs{first}")]
            + [str(number) for number in (first, half, POINTS, EACH)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (0, half)
    ]
    for process in processes:
        _, error = process.communicate()
        assert process.returncode == 0, error
    while undelivered(tmp_path):
        time.sleep(0.2)
    took = time.perf_counter() - began
    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as database:
        rows = "select count(*), count(distinct key || ':' || step), sum(value) from metrics"
        for number, distinct, total in database.execute(f"{rows} group by run_uuid"):
            assert number == distinct == POINTS
            assert total == POINTS * (POINTS - 1) / 2
        assert (
            database.execute("select count(distinct run_uuid) from metrics").fetchone()[0] == cases
        )
    began = time.perf_counter()
    experiment = client(store_uri).get_experiment_by_name("gstds")
    found = client(store_uri).search_runs([experiment.experiment_id], max_results=cases)
    assert len(found) == cases
    assert {run.info.status for run in found} == {"FINISHED"}
    searched = time.perf_counter() - began
    print(f"\n{cases} runs of {POINTS} points: {took:.0f} s, then searched in {searched:.2f} s")


@pytest.fixture(autouse=True)
def _no_other_address(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GSTDS_UPLOADER", "1")
