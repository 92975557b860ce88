from __future__ import annotations

import json

import numpy as np
import pytest

from gstds.train.cli.main import main


@pytest.fixture
def here(tmp_path, tiny_npz, monkeypatch):
    """A folder with two data sets, ``tiny.npz`` and ``dim.npz``."""
    monkeypatch.chdir(tmp_path)
    with np.load(tmp_path / "tiny.npz") as tiny:
        np.savez(tmp_path / "dim.npz", X=tiny["X"] // 2, y=tiny["y"])
    return tmp_path


def words(*more):
    options = ["--batch-size", "32", "--epochs", "1", "--learner", "mlp", "--seeds", "2"]
    return ["compare", "--policies", "random", "full", *options, "--no-tracking", "--quiet", *more]


def test_each_data_set_has_its_comparison_and_there_is_an_overview(here, capsys):
    command = words("--datasets", "npz:tiny.npz", "npz:dim.npz", "--out", "c", "--json", "c.json")
    assert main(command) == 0
    content = json.loads((here / "c.json").read_text(), parse_constant=pytest.fail)
    assert content["datasets"] == ["npz:tiny.npz", "npz:dim.npz"]
    rows = [(run["dataset"], run["policy"], run["seed"]) for run in content["runs"]]
    assert len(rows) == len(set(rows)) == 8
    for name in ("npz-tiny.npz", "npz-dim.npz"):
        one = json.loads((here / "c" / name / "comparison.json").read_text())
        assert [row["policy"] for row in one["summary"]] == ["random", "full"]
        assert (here / "c" / name / "report.html").exists()
    page = (here / "c" / "overview.md").read_text()
    assert "| policy | npz:tiny.npz | npz:dim.npz |" in page
    random = content["summary"][0]
    assert f"{100 * random['mean']:.1f} ± {100 * random['ci95']:.1f}" in page
    capsys.readouterr()
    before = {p: p.read_bytes() for p in here.glob("c/*/runs/*/result.json")}
    assert main(command) == 0, "the same command goes on, and repeats nothing"
    assert before == {p: p.read_bytes() for p in here.glob("c/*/runs/*/result.json")}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--datasets", "npz:tiny.npz", "npz:none.npz"], "none.npz"),
        (["--datasets", "npz:tiny.npz", "npz:tiny.npz"], "once each"),
        (["--datasets", "npz:tiny.npz", "--dataset", "digits"], "without --dataset"),
        (["--datasets", "npz:tiny.npz", "--sweep", "keep=.3"], "without --sweep"),
    ],
)
def test_bad_data_sets_are_refused_before_the_first_run(here, capsys, more, message):
    assert main(words("--out", "c", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(here.glob("c/*/runs"))
