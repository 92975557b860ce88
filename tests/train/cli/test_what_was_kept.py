"""`gstds kept` against a run's own record."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from gstds.train.cli.main import main

N = 240


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on a folder of images, whose classes are dark, middle and bright."""
    folder = tmp_path_factory.mktemp("kept")
    rng = np.random.default_rng(0)
    for i in range(N):
        path = folder / "images" / ("dark", "middle", "bright")[i % 3] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (8, 8, 3)) + 80 * (i % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    words = ["run", "--dataset", f"folder:{folder / 'images'}", "--image-size", "8"]
    words += ["--policy", "uncertainty", "--epochs", "3", "--batch-size", "32", "--learner", "mlp"]
    assert main([*words, "--no-tracking", "--quiet", "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def answer(place, capsys):
    def ask(*words):
        assert main(["kept", str(place / "run"), *words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return ask


def test_rows_are_those_that_were_trained_on(place, answer, tmp_path):
    answer("--to", str(tmp_path / "k.parquet"))
    rows = parquet.read_table(tmp_path / "k.parquet").to_pydict()
    result = json.loads((place / "run" / "result.json").read_text())
    result = result.get("content", result)
    assert len(rows["step"]) == result["samples_trained"]
    assert (min(rows["step"]), max(rows["step"])) == (1, result["steps"])
    assert set(rows["epoch"]) == {0, 1, 2}
    assert all((place / "images" / name).is_file() for name in set(rows["file"]))
    kept = np.load(place / "run" / "kept.npz")
    times = np.bincount(rows["index"], minlength=N)
    assert sorted(times[times > 0]) == sorted(kept["visits"][kept["visits"] > 0])
    files = sorted((place / "images").glob("*/*"))
    assert {files[i].name for i in rows["index"]} == {name[-7:] for name in rows["file"]}
    assert set(rows["weight"]) == {1.0}
    answer("--to", str(tmp_path / "k.csv"))
    lines = (tmp_path / "k.csv").read_text().splitlines()
    assert lines[0] == '"step","epoch","index","file","weight"'
    assert len(lines) == len(rows["step"]) + 1


def test_a_row_takes_less_than_four_bytes(tmp_path):
    from gstds.train.cli.kept import write_rows

    index = np.random.default_rng(0).permutation(60_000)
    columns = {"step": np.arange(60_000) // 128, "epoch": 0 * index, "index": index}
    columns = {name: column.astype(np.int32) for name, column in columns.items()}
    write_rows(tmp_path / "k.parquet", columns | {"weight": np.ones(60_000, np.float16)})
    assert (tmp_path / "k.parquet").stat().st_size <= 3 * 60_000


def test_tables_and_json_count_the_same(place, answer, tmp_path):
    said = answer("--top", "5", "--least", "4", "--by", "class", "--json", str(tmp_path / "k.json"))
    found = json.loads((tmp_path / "k.json").read_text())
    assert [len(found["most"]), len(found["least"])] == [5, 4]
    assert found["most"][0]["share"] >= found["most"][-1]["share"] > found["least"][0]["share"]
    assert (
        sum(row["kept"] for row in found["by_class"])
        == np.load(place / "run" / "kept.npz")["visits"].sum()
    )
    for row in (*found["most"], *found["least"]):
        assert row["sample"].startswith(row["class"] + "/")
        assert row["sample"] in said
    assert "by class" in said


def test_a_filter_holds_positions_in_what_was_read(place, answer, tmp_path):
    answer("--filter", str(tmp_path / "f.json"), "--share", ".25")
    chosen = json.loads((tmp_path / "f.json").read_text())
    visits = np.load(place / "run" / "kept.npz")["visits"]
    assert len(chosen) == len(set(chosen)) == round(0.25 * len(visits))
    assert max(chosen) < N
    answer("--to", str(tmp_path / "k.parquet"))
    rows = parquet.read_table(tmp_path / "k.parquet").to_pydict()
    of = [rows["index"].count(row) for row in chosen]
    assert np.mean(of) > 1.5 * np.mean(visits)


def test_a_page_shows_the_images(answer, tmp_path):
    answer("--html", str(tmp_path / "k.html"), "--top", "3", "--least", "3")
    page = (tmp_path / "k.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "http" not in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--share", "0"), "share must be in (0, 1], got 0.0"),
        (("--top", "-1"), "top must be at least 0, got -1"),
        (("--to", "k.xlsx"), "to must end in .parquet or .csv, got 'k.xlsx'"),
    ],
)
def test_what_cannot_be_is_refused(place, capsys, words, told):
    assert main(["kept", str(place / "run"), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_a_record_is_refused(tmp_path, capsys):
    assert main(["kept", str(tmp_path)]) == 2
    assert "has no kept.npz: it has not ended, or is no run" in capsys.readouterr().err
