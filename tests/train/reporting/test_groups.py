"""The groups of a comparison's view in MLflow hold what its report holds, whatever came between."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from gstds.common.checksummed_json import read_sealed
from gstds.train.cli.main import main
from gstds.train.tracking.store import client, prepare_store
from gstds.train.tracking.ui import run_filter
from gstds.train.tracking.uploader import sync

PLUGIN = """
from gstds import KeepRatioPolicy

class Own(KeepRatioPolicy):
    def __init__(self):
        super().__init__(picker="uniform")

    def keep_ratio(self, observation):
        {body}
"""


@pytest.fixture
def compare(tmp_path, monkeypatch, tiny_npz, store_uri):
    """Compare by the command line; return what the view groups, and what the report holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["compare", "--policies", "random", "own_groups:Own", "--dataset", tiny_npz, "--quiet"]
    words += ["--epochs", "2", "--batch-size", "32", "--learner", "mlp", "--no-model"]
    words += ["--out", "c", "--tracking-uri", store_uri]

    def keep(run):
        return run["policy"], run["mean_keep"] and round(run["mean_keep"], 2)

    def compare(body, seeds="2", code=0):
        Path("own_groups.py").write_text(PLUGIN.format(body=body))
        sys.modules.pop("own_groups", None)  # as in a process of its own
        assert main([*words, "--seeds", seeds]) == code
        sync(tmp_path)
        found = client(store_uri).search_runs(
            [prepare_store(store_uri, "gstds")], run_filter("c"), max_results=1000
        )
        shown = Counter(
            keep({**run.data.tags, "mean_keep": run.data.metrics.get("final/mean_keep")})
            for run in found
        )
        content = read_sealed(tmp_path / "c" / "comparison.json")
        held = Counter(keep(run) for run in (*content["runs"], *content["controls"]))
        return shown, held

    return compare


@pytest.mark.slow
def test_the_groups_of_the_view_are_the_rows_of_the_report(compare):
    shown, held = compare("return 0.5")
    assert shown == held
    assert shown["own_groups:Own", 0.5] == 2
    shown, held = compare("return 0.75")  # edited
    assert shown == held
    assert shown["own_groups:Own", 0.5] == 0
    shown, held = compare("return 0.5")  # and back: the old runs are there again
    assert shown == held
    assert shown["own_groups:Own", 0.75] == 0
    shown, held = compare("return 0.5", seeds="3")
    assert shown == held
    fails = "return {True: 0.5}[bool(observation['progress'][0] < 0.3)]"
    shown, held = compare(fails, seeds="3", code=1)
    assert {name for name, _ in shown} == {name for name, _ in held}
    shown, held = compare("return 0.25", seeds="3")  # mended
    assert shown == held
    assert shown["own_groups:Own", 0.25] == 3
