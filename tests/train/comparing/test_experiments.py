from __future__ import annotations

import json

import pytest

from gstds.train.cli.main import main
from gstds.train.comparing import experiments
from gstds.train.comparing.compare import Comparison, plan
from gstds.train.comparing.experiments import EXPERIMENTS, experiment_names, run_experiment
from gstds.train.comparing.overhead import measure_overhead, write_overhead
from gstds.train.reporting.report import saving_table
from gstds.train.running.options import RunConfig


def comparison(folder, base, **options):
    return Comparison(
        base=base, policies=("random",), seeds=1, baseline="random", name="e", folder=folder,
        tracking=None, experiment="gstds", **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_of_a_preset_is_a_run(name, tmp_path):
    preset = EXPERIMENTS[name]
    rows = comparison(tmp_path, RunConfig(**preset.options))
    jobs = plan(Comparison(**{**vars(rows), "policies": preset.rows, "baseline": preset.baseline}))
    assert [job.label for job in jobs] == list(preset.rows)
    configs = [job.config for job in jobs]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])
    assert set(preset.optional) <= set(preset.rows)
    assert {"random", "full"} <= set(preset.rows)


def test_schedules_are_compared_at_one_mean_keep(tmp_path):
    from gstds.train.running.setup import make_run_schedule

    preset = EXPERIMENTS["schedules"]
    rows = comparison(tmp_path, RunConfig(**preset.options))
    jobs = plan(Comparison(**{**vars(rows), "policies": preset.rows, "baseline": preset.baseline}))
    means = [make_run_schedule(job.config).mean_keep() for job in jobs if job.label != "full"]
    assert means == pytest.approx([0.53] * len(means), abs=1e-6)


def test_an_experiment_leaves_a_page_with_table_plot_and_command(tmp_path, tiny_npz, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["experiment", "sanity", "--dataset", tiny_npz, "--epochs", "1", "--batch-size", "32"]
    words += ["--learner", "mlp", "--reference", "untrained", "--seeds", "2", "--no-tracking"]
    assert main([*words, "--quiet", "--out", "e", "--json", "e.json"]) == 0
    note = json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)
    (content,) = note["comparisons"]
    assert content["baseline"] == "full"
    assert len(content["runs"]) == 6
    page = (tmp_path / "e" / "experiment.md").read_text()
    assert "does GSTDS reach what ordinary training reaches" in page
    assert page.count("| full |") == 1
    picture = page.partition("![Accuracy and cost of each row](")[2].partition(")")[0]
    assert (tmp_path / "e" / picture).read_bytes().startswith(b"\x89PNG")
    assert content["runs"][0]["steps"] == 5, "one epoch: the command line wins over the preset"


def test_a_row_that_cannot_be_had_is_left_out_with_its_reason(tmp_path, tiny_npz, monkeypatch):
    missing = "easy-reference@reference=checkpoint:none.pt"
    preset = experiments.Preset("why?", ("random", missing), "random", optional=(missing,))
    monkeypatch.setitem(EXPERIMENTS, "test", preset)
    base = RunConfig(batch_size=32, epochs=1, learner="mlp")
    note = run_experiment("test", comparison(tmp_path / "e", base), [tiny_npz])
    (content,) = note["comparisons"]
    assert [run["policy"] for run in content["runs"]] == ["random"]
    assert "none.pt" in content["left_out"][missing]


def test_the_saving_that_became_seconds():
    rows = [
        {"policy": "full", "relative_compute": 1.0, "relative_seconds": 1.0},
        {"policy": "gstds", "relative_compute": 0.5, "relative_seconds": 0.6},
        {"policy": "random", "relative_compute": 0.5, "relative_seconds": None},
    ]
    table = saving_table(rows)
    assert table.rows == (("gstds", "0.50", "0.60", "0.80"), ("random", "0.50", "-", "-"))


def test_overhead_measures_growth(tmp_path):
    rows = measure_overhead(rounds=2, counts=(64, 128, 256), dimensions=(32, 64))
    assert [row["n"] for row in rows["batch"]] == [64, 128, 256]
    assert rows["batch"][0]["exponent"] is None
    row, before = rows["batch"][1], rows["batch"][0]
    assert 2 ** row["exponent"] == pytest.approx(row["milliseconds"] / before["milliseconds"])
    assert rows["features"][1]["flops"] > rows["features"][0]["flops"]
    page = write_overhead(tmp_path, rows, question="how?", command="gstds experiment overhead")
    text = page.read_text()
    assert "gstds experiment overhead" in text
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")


def test_bad_names_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", "sanitty", "--no-tracking"]) == 2
    assert "did you mean 'sanity'" in capsys.readouterr().err
    assert main(["experiment", "overhead", "--epochs", "3"]) == 2
    assert "epochs has no meaning there" in capsys.readouterr().err
    assert set(experiment_names()) == {*EXPERIMENTS, "overhead"}
