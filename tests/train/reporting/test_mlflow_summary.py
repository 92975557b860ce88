"""A comparison in a real store: its summary run, and the glossary of every metric."""

from __future__ import annotations

import json
import logging
import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest

from gstds.train.cli.main import main
from gstds.train.reporting.mlflow_summary import publish
from gstds.train.tracking.store import client, prepare_store
from gstds.train.tracking.uploader import Upload, sync

GLOSSARY = Path(__file__).parents[3] / "docs" / "metrics.md"
PLUG_IN = """
    from gstds.policies import KeepRatioPolicy

    class Waves(KeepRatioPolicy):
        def __init__(self): super().__init__(picker="uniform")
        def keep_ratio(self, observation):
            return 0.3 if int(10 * observation["progress"][0]) % 2 else 0.7
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def store_uri(mlflow_schema, place):
    shutil.copy(mlflow_schema, place / "mlflow.db")
    return f"sqlite:///{place / 'mlflow.db'}"


@pytest.fixture(scope="module", autouse=True)
def compared(place, store_uri):
    """A small comparison with every kind of control, published, and how it was asked for."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    images = rng.integers(0, 256, size=(200, 8, 8)).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(place)
        np.savez("noise.npz", X=images, y=labels)
        Path("waves.py").write_text(textwrap.dedent(PLUG_IN))
        words = ["compare", "--policies", "random", "full", "waves:Waves", "--seeds", "2"]
        words += ["--dataset", "npz:noise.npz", "--epochs", "2", "--batch-size", "32"]
        words += ["--out", "small", "--tracking-uri", store_uri, "--quiet", "--no-model"]
        assert main(words) == 0
        sync(place)
        yield words


def summaries(store_uri):
    experiment = prepare_store(store_uri, "gstds")
    sync(Path("small"))
    wanted = "tags.kind = 'summary' AND tags.superseded IS NULL"
    return client(store_uri).search_runs([experiment], wanted)


def glossary():
    """The metric names of the glossary, and the phases of time/PHASE."""
    rows = [line for line in GLOSSARY.read_text().splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    phases = next(row for row in rows if "time/PHASE" in row)
    return names, set(re.findall(r"`(\w+)`", phases.split("|")[2]))


def test_every_metric_stands_in_the_glossary_and_the_glossary_names_no_other(compared, store_uri):
    names, phases = glossary()
    experiment = prepare_store(store_uri, "gstds")
    logged = {
        key for run in client(store_uri).search_runs([experiment]) for key in run.data.metrics
    }
    seen = set()
    for key in logged:
        if key.startswith("summary/"):
            key = "/".join((*key.split("/")[:2], "POLICY"))
        elif key.startswith("param/"):
            key = "param/GROUP.NAME"
        elif key.startswith("time/") and key not in names:
            assert key.removeprefix("time/") in phases, key
            key = "time/PHASE"
        assert key in names, f"{key} is not explained in docs/metrics.md"
        seen.add(key)
    assert names == seen


def test_the_summary_run_says_what_the_json_says(compared, store_uri):
    (run,) = summaries(store_uri)
    content = json.loads(Path("small/comparison.json").read_text())
    rows = {r["policy"]: r for r in (*content["summary"], *content["controls_summary"])}
    assert set(rows) == {"random", "full", "waves:Waves", "random:waves:Waves", "short-full"}
    metrics = run.data.metrics
    for policy, row in rows.items():
        name = policy.replace(":", "-")
        assert metrics[f"summary/accuracy/{name}"] == pytest.approx(row["mean"])
        assert metrics[f"summary/runs/{name}"] == 2
    (pair,) = (r for r in content["against_controls"] if r["same"] == "keep sequence")
    assert metrics["summary/control_difference/waves-Waves"] == pytest.approx(pair["difference"])
    tags = run.data.tags
    assert tags["comparison"] == "small"
    assert "policy" not in tags
    assert "| random |" in tags["mlflow.note.content"]
    kept = {f.path for f in client(store_uri).list_artifacts(run.info.run_id)}
    assert {"report.html", "report.md", "comparison.json", "accuracy.png", "pareto.png"} <= kept
    # The view's filter shows the runs and the controls, and not the summary.
    from gstds.train.tracking.ui import run_filter

    experiment = prepare_store(store_uri, "gstds")
    shown = client(store_uri).search_runs([experiment], run_filter("small"))
    kinds = [r.data.tags["kind"] for r in shown]
    assert (kinds.count("run"), kinds.count("control"), len(kinds)) == (6, 4, 10)
    control = next(r for r in shown if r.data.tags["policy"] == "random:waves:Waves")
    assert control.data.tags["control_of"] == "waves:Waves"
    assert "A control of waves:Waves" in control.data.tags["mlflow.note.content"]


def test_comparing_again_keeps_the_summary_and_another_result_replaces_it(compared, store_uri):
    (first,) = summaries(store_uri)
    assert main(compared) == 0
    assert [r.info.run_id for r in summaries(store_uri)] == [first.info.run_id]
    assert main([*compared, "--baseline", "full"]) == 0
    (second,) = summaries(store_uri)
    assert second.info.run_id != first.info.run_id
    assert second.data.tags["baseline"] == "full"


def test_a_report_by_name_even_when_the_folder_is_gone(compared, store_uri, capsys):
    words = ["report", "small", "--tracking-uri", store_uri]
    Path("small/report.md").unlink()
    Path("there").mkdir()
    shutil.move("small", "there/small")
    assert main(words) == 0, capsys.readouterr().err
    assert "random" in Path("runs/report-small/report.md").read_text()
    shutil.move("there/small", "small")
    assert main(["report", str(Path("small"))]) == 0
    assert Path("small/report.md").exists()
    assert main(["report", "smal", "--tracking-uri", store_uri]) == 2
    assert "nor a comparison" in capsys.readouterr().err


def test_a_users_own_description_stays(compared, store_uri):
    experiment = prepare_store(store_uri, "gstds")
    store = client(store_uri)
    assert "gstds compare" in store.get_experiment(experiment).tags["mlflow.note.content"]
    store.set_experiment_tag(experiment, "mlflow.note.content", "mine")
    assert main([*compared, "--baseline", "full"]) == 0
    sync(Path("small"))
    assert store.get_experiment(experiment).tags["mlflow.note.content"] == "mine"
    store.delete_experiment_tag(experiment, "mlflow.note.content")


def test_a_folder_that_cannot_be_written_is_a_warning(store_uri, caplog, monkeypatch):
    content = json.loads(Path("small/comparison.json").read_text())
    Path("full").mkdir()

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.open", full)
    with caplog.at_level(logging.WARNING):
        publish(Upload(store_uri), content, {"html": Path("full/report.html")})
    assert "the comparison is not logged" in caplog.text
