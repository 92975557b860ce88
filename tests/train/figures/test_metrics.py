"""The table of metrics against the code that computes them, and the glossary that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gstds.train.figures.tables import as_logged, metrics

GLOSSARY = Path(__file__).parents[3] / "docs" / "metrics.md"
FIRST, LAST = "test_metrics -->\n", "<!-- end -->"


def glossary():
    """The table of docs/metrics.md: a run's metrics first, then those of comparisons."""
    rows = [
        (metric.when(name).replace("control", "summary"), name, text, metric.unit)
        for metric in metrics()
        for name, text in metric.logged.items()
    ]
    order = ["beginning", "step", "evaluation", "end", "summary"]
    rows.sort(key=lambda row: order.index(row[0]))
    lines = [f"| `{name}` | {text} | {unit} | {when} |" for when, name, text, unit in rows]
    return "\n".join(["| metric | meaning | unit | logged |", "|---|---|---|---|", *lines, ""])


def test_the_glossary_is_what_the_table_says():
    text = GLOSSARY.read_text()
    assert text.partition(FIRST)[2].partition(LAST)[0] == glossary()


def test_every_row_is_whole():
    keys = [metric.key for metric in metrics()]
    assert len(set(keys)) == len(keys)
    names = [name for metric in metrics() for name in metric.logged]
    assert len(set(names)) == len(names)
    for metric in metrics():
        for name in metric.logged:
            section, _, rest = name.partition("/")
            assert rest.endswith("/POLICY") == (section == "summary")
        for _, _, kind in metric.charts:
            drawn = metric.drawn(kind)
            assert drawn in metric.logged
            assert metric.when(drawn) in ("step", "evaluation") or kind not in (
                "line",
                "by compute",
            )


@pytest.mark.parametrize(
    ("when", "names"),
    [
        ("step", {"selection/keep_ratio"}),
        ("evaluation", {"selection/seen", "val/accuracy", "validation accuracy percent"}),
        ("end", {"final/seen", "final/val_accuracy"}),
        ("summary", {"summary/seen/POLICY"}),
        ("control", set()),
    ],
)
def test_what_is_logged_when(when, names):
    values = {"keep_ratio": 0.5, "seen": 0.9, "val_accuracy": 0.8, "test_accuracy": None, "x": 1}
    assert set(as_logged(values, when)) == names


def test_what_is_for_the_eye_has_its_unit_and_four_digits():
    logged = as_logged({"val_accuracy": 0.912345, "charged_flops": 5.97705312e9}, "evaluation")
    assert logged["validation accuracy percent"] == 91.23
    assert logged["charged TFLOP"] == 0.005977
    assert logged["cost/charged_flops"] == 5.97705312e9


if __name__ == "__main__":
    text = GLOSSARY.read_text()
    head, _, rest = text.partition(FIRST)
    GLOSSARY.write_text(head + FIRST + glossary() + LAST + rest.partition(LAST)[2])
