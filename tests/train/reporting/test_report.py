from __future__ import annotations

import io
import re
import threading

import numpy as np
import pytest
from rich.console import Console

from gstds.train.figures.plots import (
    plot_accuracy_against_compute,
    plot_accuracy_against_seconds,
    plot_kept_over_time,
    plot_pareto,
    plot_run,
    plot_seconds,
    policy_color,
)
from gstds.train.figures.statistics import summarize
from gstds.train.figures.tables import comparison_table, format_flops
from gstds.train.reporting.report import findings, write_report

PNG = b"\x89PNG"


def run(policy, seed, accuracy, status="finished"):
    keep = 1.0 if policy == "full" else 0.53
    history = [
        {
            "step": 79 * e, "epoch": e, "progress": e / 10, "charged_flops": 3e12 * keep * e / 10,
            "seconds": e, "val_accuracy": 0.1 + (accuracy or 0.3) * e / 11, "val_loss": 1.0,
            "train_loss": 1.0, "keep_ratio": None if e == 0 else keep,
        }
        for e in range(11)
    ]  # fmt: skip
    return {
        "policy": policy, "seed": seed, "dataset": "digits", "learner": "small-cnn",
        "run_id": f"{seed:032x}", "status": status, "test_accuracy": accuracy, "test_loss": 0.5,
        "train_loss": 0.3, "mean_keep": keep, "charged_flops": 3e12 * keep, "full_flops": 3e12,
        "reference_flops": 6e12 if policy == "gstds" else 0.0, "seconds": 20.0,
        "seconds_by_phase": {"forward": 5.0, "backward": 9.0}, "steps": 790,
        "weights_sha256": "ab" * 32, "history": history,
    }  # fmt: skip


RUNS = [run(p, s, a + s / 100) for p, a in (("gstds", 0.8), ("random", 0.82)) for s in range(3)]
FULL = [run("full", s, 0.85 + s / 200) for s in range(3)]
LOST = run("my_file:Mine|<x>", 0, None, status="diverged")
EVERYTHING = [*RUNS, *FULL, LOST]


def cells(table, policy):
    row = next(row for row in table.rows if row[0] == policy)
    return dict(zip(table.header, row, strict=True))


def test_table_shows_what_the_summary_says():
    table = comparison_table(summarize(EVERYTHING, "random"), setting="equal-epochs")
    gstds = cells(table, "gstds")
    assert gstds["accuracy %"] == "81.0 ± 2.5"
    assert gstds["TFLOP"] == "1.59"
    assert gstds["+ ref/R"] == "3.59"
    assert gstds["+ ref"] == "7.59"
    assert gstds["/ full"] == "0.53"
    assert gstds["s / full"] == "1.00"
    assert cells(table, LOST["policy"])["runs"] == "0 (+1 diverged)"
    assert cells(table, "random")["p Holm"] == "-"
    assert "same number of drawn batches" in table.caption
    assert "R = 3 runs" in table.caption
    assert (
        "short full" in comparison_table(summarize(RUNS, "random"), setting="equal-budget").caption
    )


@pytest.mark.parametrize("seeds", [9, 10])
def test_fewer_than_ten_runs_claim_nothing(seeds):
    """Half a point in every seed: p is far below .05 however few they are."""
    near = {s: 0.8 + s / 1000 for s in range(seeds)}
    runs = [run("random", s, a) for s, a in near.items()]
    runs += [run("gstds", s, a - 0.005 - 1e-4 * (s % 3)) for s, a in near.items()]
    summary = summarize(runs, "random")
    row = cells(comparison_table(summary), "gstds")
    said = next(s for s in findings({"summary": summary}) if s.startswith("gstds"))
    assert (row["d"] == "-") == (seeds < 10)
    assert ("too few to tell" in said) == (seeds < 10)
    assert ("a difference" in said) == (seeds >= 10)
    assert "at 53% of full training's compute (253% with the whole reference)" in said


def test_one_policy_and_one_seed_need_no_test():
    table = comparison_table(summarize(RUNS[:1], "gstds"))
    assert "p Holm" not in table.header
    assert cells(table, "gstds")["accuracy %"] == "80.0"
    two = comparison_table(summarize([RUNS[0], RUNS[3]], "random"))
    assert "One seed" in two.caption


def test_forms_of_a_table():
    table = comparison_table(summarize(EVERYTHING, "random"))
    lines = table.text().splitlines()
    assert len(lines) == 2 + len(table.rows)
    assert lines[2].index("3") == lines[3].index("3")
    assert "my_file:Mine\\|<x>" in table.markdown()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_cuts_nothing(width):
    table = comparison_table(summarize(EVERYTHING, "random"))
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    shown = console.file.getvalue()
    assert "…" not in shown
    for row in table.rows:
        for cell in row:
            assert cell in shown
    assert max(map(len, shown.splitlines())) <= width


def test_amounts_of_compute():
    assert format_flops(1.234e12) == "1.23 TFLOP"
    assert format_flops(None) == "-"
    assert format_flops(0.0) == "0.00 MFLOP"
    assert format_flops(4.5e16) == "45.0 PFLOP"


def test_what_html_would_read_is_text_in_a_page(tmp_path):
    summary = summarize(EVERYTHING, "random")
    content = {"setting": "equal-epochs", "runs": EVERYTHING, "summary": summary}
    page = write_report(tmp_path, content)["html"].read_text()
    assert page.count("<td>my_file:Mine|&lt;x&gt;</td>") == 4
    assert "<x>" not in page


def test_report_is_complete_and_needs_no_other_file(tmp_path):
    summary = summarize([*RUNS, *FULL], "random")
    control = [run("random-same-keep", s, 0.83 + s / 100) for s in range(3)]
    paths = write_report(
        tmp_path / "new",
        {
            "command": ["gstds", "compare", "--tracking-uri", "http://me:secret@host"],
            "setting": "equal-epochs",
            "versions": {"torch": "2.13.0"},
            "hardware": {"processors": 2},
            "runs": [*RUNS, *FULL],
            "summary": summary,
            "controls": control,
        },
    )
    page, text = paths["html"].read_text(), paths["md"].read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    for content in (page, text):
        assert "secret" not in content
        assert "random-same-keep" in content
        assert "81.0 ± 2.5" in content
        assert "2.13.0" in content
    assert "the data set is not at hand" in text
    for name in ("accuracy", "accuracy_seconds", "pareto", "kept_over_time", "seconds"):
        assert paths[name].read_bytes().startswith(PNG)
        assert f"({paths[name].name})" in text
    assert not list(tmp_path.rglob("*.tmp"))


CROWD = [one | {"policy": f"policy-{i:02}"} for i in range(30) for one in FULL]


@pytest.mark.parametrize(
    "runs",
    [
        *(RUNS[:1], [LOST], [{**RUNS[0], "history": []}], EVERYTHING),
        pytest.param(CROWD, marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_plots_of_odd_comparisons(runs, tmp_path, recwarn):
    summary = summarize(runs, runs[0]["policy"])
    plot_accuracy_against_compute(runs, summary, tmp_path / "a.png")
    plot_accuracy_against_seconds(runs, tmp_path / "t.png")
    plot_pareto(summary, tmp_path / "p.png")
    plot_kept_over_time(runs, tmp_path / "k.png")
    plot_seconds(runs, tmp_path / "s.png")
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 5
    assert not recwarn.list


def test_plots_leave_pyplot_alone_and_work_in_threads():
    import sys

    images = []
    history = RUNS[0]["history"]
    threads = [
        threading.Thread(target=lambda: images.append(plot_run(history, np.linspace(0, 1, 50))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images) == 2
    assert images[0] == images[1]
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_colors_are_colors_and_lasting():
    names = ["gstds", "random", "full", "my_file:Mine", "other:Mine"]
    assert all(re.fullmatch(r"#[0-9a-f]{6}", policy_color(name)) for name in names)
    assert len({policy_color(name) for name in names}) == len(names)
    assert policy_color("my_file:Mine") == policy_color("my_file:Mine")
