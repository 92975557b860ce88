"""The paper's open checks: `gstds compare --preset NAME`."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from gstds.train.cli.main import main
from gstds.train.comparing import comparison as room
from gstds.train.comparing.compare import plan
from gstds.train.comparing.comparison import PRESETS, comparison_from
from tests.envs.data.test_archives import NOWHERE, cifar, flowers, pets, server

__all__ = ["cifar", "flowers", "pets", "server"]  # fixtures


def planned(name, folder):
    options = {**PRESETS[name]["options"]}
    options.pop("datasets", None)
    return plan(comparison_from(options | {"seeds": 1, "policies": tuple(rows(name))}, folder))


def rows(name):
    return PRESETS[name]["options"]["policies"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_row_of_a_preset_is_a_run(name, tmp_path):
    jobs = planned(name, tmp_path)
    assert [job.label for job in jobs] == rows(name)
    configs = [job.config for job in jobs]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])
    assert set(PRESETS[name].get("optional", ())) <= set(rows(name))
    assert {"random", "full"} <= set(rows(name))


def test_schedules_are_compared_at_one_mean_keep(tmp_path):
    from gstds.train.running.setup import make_run_schedule

    jobs = planned("schedules", tmp_path)
    means = [make_run_schedule(job.config).mean_keep() for job in jobs if job.label != "full"]
    assert means == pytest.approx([0.53] * len(means), abs=1e-6)


@pytest.fixture
def here(tmp_path, tiny_npz, monkeypatch):
    """A folder with two data sets, ``tiny.npz`` and ``dim.npz``."""
    monkeypatch.chdir(tmp_path)
    with np.load(tmp_path / "tiny.npz") as tiny:
        np.savez(tmp_path / "dim.npz", X=tiny["X"] // 2, y=tiny["y"])
    return tmp_path


def words(preset, *more):
    options = ["--preset", preset, "--batch-size", "32", "--learner", "mlp", "--no-tracking"]
    return ["compare", *options, "--quiet", "--out", "e", "--json", "e.json", *more]


def answer(folder):
    return json.loads((folder / "e.json").read_text(), parse_constant=pytest.fail)


def test_a_preset_leaves_a_report_with_table_plots_and_command(here, capsys):
    more = ["--dataset", "npz:tiny.npz", "--epochs", "1", "--reference", "untrained"]
    assert main(words("sanity", *more, "--seeds", "2")) == 0
    content = answer(here)
    assert content["baseline"] == "full"
    assert len(content["runs"]) == 8
    assert content["controls"] == []
    assert "does GSTDS reach what ordinary training reaches" in content["question"]
    page = (here / "e" / "report.md").read_text()
    assert content["command"] in page
    assert "| full |" in page
    assert (here / "e" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert content["runs"][0]["steps"] == 5, "one epoch: the command line wins over the preset"


@pytest.mark.slow
def test_a_preset_on_several_data_sets_has_an_overview_with_its_question(here):
    more = ["--datasets", "npz:tiny.npz", "npz:dim.npz", "--epochs", "1", "--seeds", "1"]
    assert main(words("sanity", *more, "--reference", "untrained")) == 0
    assert answer(here)["datasets"] == ["npz:tiny.npz", "npz:dim.npz"]
    assert answer(here)["baseline"] == "full"
    page = (here / "e" / "overview.md").read_text()
    assert "does GSTDS reach what ordinary training reaches" in page
    assert "| policy | npz:tiny.npz | npz:dim.npz |" in page


def test_without_data_sets_they_are_those_of_the_paper(here, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "gstds.train.comparing.compare.on_datasets",
        lambda comparison, datasets: asked.append((comparison, datasets)) or [],
    )
    assert main(words("schedules")) == 0
    ((comparison, datasets),) = asked
    assert list(datasets) == ["cifar10", "oxford-iiit-pet", "flowers102"]
    assert (comparison.seeds, comparison.controls) == (10, False)


def test_a_row_that_cannot_be_had_is_left_out_with_its_reason(here, monkeypatch, capsys):
    missing = "easy-reference@reference=checkpoint:none.pt"
    options = {"policies": ["random", missing], "baseline": "random", "controls": False}
    monkeypatch.setitem(
        room.PRESETS, "sanity", {"question": "why?", "optional": [missing], "options": options}
    )
    assert main(words("sanity", "--dataset", "npz:tiny.npz", "--epochs", "1", "--seeds", "1")) == 0
    content = answer(here)
    assert [run["policy"] for run in content["runs"]] == ["random"]
    assert "none.pt" in content["left_out"][missing]
    assert f"left out: {missing}: " in capsys.readouterr().out
    assert missing in (here / "e" / "report.md").read_text()


def test_bad_presets_are_refused(here, capsys):
    assert main(words("sanitty")) == 2
    assert "did you mean 'sanity'" in capsys.readouterr().err
    assert main(words("sanity", "--sweep", "keep=.3")) == 2
    assert "without --sweep" in capsys.readouterr().err


def test_presets_are_listed_with_their_questions(capsys):
    assert main(["list", "presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t") for line in lines] == [
        [name, preset["question"]] for name, preset in PRESETS.items()
    ]


@pytest.mark.parametrize("name", ["paper-cifar10", "paper-pets", "paper-flowers"])
def test_without_the_files_the_papers_setting_is_refused_with_what_to_bring(
    name, here, monkeypatch, capsys
):
    from gstds.envs.data import named

    def away(address):
        raise ConnectionError(f"{address} cannot be reached")

    monkeypatch.setattr(named, "require_answer", away)
    monkeypatch.setattr("gstds.reference.networks.IMAGENET_RESNET50", f"{NOWHERE}net-0676ba61.pth")
    monkeypatch.setenv("GSTDS_CACHE", str(here / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    assert main(["compare", "--preset", name, "--no-tracking", "--quiet", "--out", "e"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"gstds data fetch {PRESETS[name]['options']['dataset']}" in told
    assert str(here / "torch" / "hub" / "checkpoints" / "net-0676ba61.pth") in told
    assert not (here / "e").exists()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        pytest.param(
            "paper-cifar10", ["--limit", "20", "--learner", "small-cnn"], marks=pytest.mark.soak
        ),
        pytest.param("paper-pets", ["--limit", "20", "--image-size", "8"], marks=pytest.mark.slow),
        pytest.param(
            "paper-flowers",
            ["--limit", "204", "--image-size", "8", "--learner", "small-cnn"],
            marks=pytest.mark.soak,
        ),
    ],
)
def test_the_papers_setting_runs_on_the_original_formats(
    name, more, request, tmp_path, monkeypatch, capsys
):
    import torch

    from gstds.reference.vision import import_torchvision

    dataset = PRESETS[name]["options"]["dataset"]
    made = request.getfixturevalue(
        {"oxford-iiit-pet": "pets", "flowers102": "flowers"}.get(dataset, dataset[:5])
    )
    if dataset == "cifar10":
        made(dataset, 100, 20)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights = tmp_path / "torch" / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(import_torchvision().models.resnet50().state_dict(), weights)
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--preset", name, "--seeds", "1", "--epochs", "2", "--batch-size", "10"]
    assert main([*words, *more, "--no-tracking", "--quiet", "--out", "e", "--json", "e.json"]) == 0
    content = answer(tmp_path)
    assert [run["policy"] for run in content["runs"]] == ["full", "jest", "gstds", "random"]
    assert [run["policy"] for run in content["controls"]] == ["short-full"]
    assert {run["learner"] for run in content["runs"]} == {
        "resnet18" if name == "paper-pets" else "small-cnn"
    }
    read = {run["policy"]: run["reference_flops"] > 0 for run in content["runs"]}
    assert read == {"full": False, "jest": True, "gstds": True, "random": False}
    told = capsys.readouterr().out
    flops, unit = re.search(r"will take about ([\d.]+) ([A-Z]+FLOP) by formula", told).groups()
    size = {"GFLOP": 1e9, "TFLOP": 1e12}[unit]
    spent = sum(run["charged_flops"] for run in (*content["runs"], *content["controls"]))
    assert float(flops) * size == pytest.approx(spent, rel=0.25)  # tiny batches round
    assert "hours on this processor" in told
    assert "on a GPU" in told
