from __future__ import annotations

import base64
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zlib

import pytest

from gstds.train.tracking.store import client, prepare_store
from gstds.train.tracking.ui import (
    AGENTS,
    experiment_link,
    find_view,
    open_ui,
    place_view,
    row_label,
    ui_command,
    ui_environment,
    view_state,
)


def test_command_binds_this_machine_only(monkeypatch):
    command = ui_command("sqlite:////a/mlflow.db", 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5001"
    assert ui_environment()["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    assert ui_environment()["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "true"
    with pytest.raises(ValueError, match="port"):
        ui_command("sqlite:////a/mlflow.db", 70000)


def test_link():
    link = experiment_link("http://h:1/", "3")
    assert link == (
        "http://h:1/#/experiments/3/runs?workflowType=machine_learning&compareRunsMode=CHART"
    )
    assert experiment_link("http://h:1", "3", "k") == link + "&viewStateShareKey=k"


def test_a_port_in_use_is_named(store_uri):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} .*--port"):
            open_ui(store_uri, port, echo=lambda line: None)


def test_view_is_placed_once_and_holds_the_chart(store_uri):
    experiment = prepare_store(store_uri, "gstds")
    assert find_view(store_uri, experiment) is None
    key = place_view(store_uri, experiment)
    assert key
    assert place_view(store_uri, experiment) == key == find_view(store_uri, experiment)
    tag = client(store_uri).get_experiment(experiment).tags[f"mlflow.sharedViewState.{key}"]
    kind, _, packed = json.loads(tag)["state"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert kind == "deflate"
    assert state["runsHiddenMode"] == "SHOWALL"
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "policy"}]
    assert [section["name"] for section in state["compareRunSections"]] == [
        "Better, and at what cost", "Cost", "What was kept", "All at once", "Course",
    ]  # fmt: skip
    kinds = {chart["type"] for chart in state["compareRunCharts"]}
    assert kinds == {"LINE", "BAR", "SCATTER", "PARALLEL"}
    first = state["compareRunCharts"][0]
    assert first["metricKey"] == "validation accuracy percent"
    assert first["selectedXAxisMetricKey"] == "charged TFLOP"
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections


def test_each_comparison_has_a_view_and_the_newest_is_opened(store_uri):
    experiment = prepare_store(store_uri, "gstds")
    every = place_view(store_uri, experiment)
    one, other = (place_view(store_uri, experiment, name) for name in ("one", "it's"))
    assert len({every, one, other}) == 3
    time.sleep(0.002)
    assert place_view(store_uri, experiment, "one") == one
    assert find_view(store_uri, experiment) == one
    assert find_view(store_uri, experiment, "it's") == other
    assert find_view(store_uri, experiment, "none") is None
    assert view_state("it's")["searchFilter"] == (
        "tags.comparison = \"it's\" AND tags.policy != '' AND tags.superseded IS NULL"
    )
    for i in range(25):
        place_view(store_uri, experiment, f"later-{i}")
    tags = client(store_uri).get_experiment(experiment).tags
    assert sum(key.startswith("mlflow.sharedViewState.") for key in tags) == 20
    assert find_view(store_uri, experiment, "one") is None


def test_a_comparison_is_grouped_by_rows_and_zoomed_to_its_data():
    labels = [row_label("gstds", control=False), row_label("random:best", control=True)]
    state = view_state("mine", labels, {"validation accuracy percent": [71.5, 99.0]})
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "row"}]
    assert state["orderByAsc"]  # in the order in which they were compared, controls last
    assert state["groupsExpanded"] == {f"tag.row.{label}": False for label in labels}
    zooms = [chart["range"] for chart in state["compareRunCharts"] if chart["type"] == "LINE"]
    assert zooms.count({"yMin": 71.5, "yMax": 99.0}) == 2
    assert zooms.count({}) == len(zooms) - 2


def test_the_view_of_a_sweep_sets_each_run_against_what_was_varied():
    state = view_state("mine", swept=["param/policy.keep", "policy.schedule"])
    accuracy = "validation accuracy percent"
    assert state["groupBy"] is None
    assert not state["useGroupedValuesInCharts"]
    bar, scatter, parallel = state["compareRunCharts"]
    assert bar["metricKey"] == accuracy
    assert [scatter[axis]["key"] for axis in ("xaxis", "yaxis")] == ["param/policy.keep", accuracy]
    assert parallel["selectedParams"] == ["policy.schedule"]
    assert parallel["selectedMetrics"] == ["param/policy.keep", accuracy]


def test_agents_have_a_view_of_their_own():
    state = view_state(AGENTS)
    assert state["searchFilter"] == "tags.kind = 'agent'"
    assert state["groupBy"] is None
    drawn = [chart["metricKey"] for chart in state["compareRunCharts"]]
    assert drawn[:3] == ["val/accuracy", "val/reward", "val/mean_keep"]


def test_a_row_is_named_as_its_policy_and_as_a_control():
    assert re.fullmatch("gstds[\u200b\u200c]*", row_label("gstds", control=False))
    assert re.fullmatch(
        r"short-full \(control\)[\u200b\u200c]*", row_label("short-full", control=True)
    )


def test_two_views_share_no_identifier():
    def names(state):
        return set(re.findall(r'"uuid": "(\w+)"', json.dumps(state)))

    one, other = names(view_state()), names(view_state())
    assert len(one) == len(other) > 4
    assert not one & other


def test_a_view_that_cannot_be_placed_is_only_a_warning(store_uri, caplog):
    with caplog.at_level(logging.WARNING):
        assert place_view(store_uri, "999") is None
    assert "no view was saved" in caplog.text


class Server:
    """A real MLflow server that can be stopped and started again."""

    def __init__(self, uri, port):
        self.command, self.port, self.process = ui_command(uri, port), port, None
        self.address = f"http://127.0.0.1:{port}"

    def start(self, folder):
        self.process = subprocess.Popen(
            self.command,
            env=ui_environment(),
            cwd=folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            if answers(f"{self.address}/health"):
                return
            time.sleep(0.2)
        raise TimeoutError(self.address)

    def stop(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:  # noqa: S310
            return reply.read()
    except OSError:
        return b""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ui_serves_the_experiment_and_says_where(store_uri, free_port, tmp_path, ending):
    experiment = prepare_store(store_uri, "gstds")
    key = place_view(store_uri, experiment)
    code = (
        "from gstds.train.tracking.ui import open_ui\n"
        f"open_ui({store_uri!r}, {free_port}, echo=lambda line: print(line, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        # As a shell starts what it puts into the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        line = next(line for line in process.stdout if "workflowType" in line).strip()
        base = f"http://127.0.0.1:{free_port}"
        assert line == experiment_link(base, experiment, key)
        assert b"<html" in answers(base)
        query = f"{base}/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
        assert json.loads(answers(query))["experiment"]["name"] == "gstds"
    finally:
        process.send_signal(ending)
        said = process.communicate(timeout=30)[0]
    assert "GET /" not in said, "requests carry the link off the screen"
    assert not answers(f"{base}/health")
    assert process.returncode == 0
