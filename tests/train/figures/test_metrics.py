"""The table of metrics against the code that computes them, and the glossary that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gstds.train.figures.tables import as_logged, metrics

GLOSSARY = Path(__file__).parents[3] / "docs" / "tracking.md"
FIRST, LAST = "test_metrics -->\n", "<!-- end -->"


def glossary():
    """The table of docs/tracking.md: a run's metrics first, then those of comparisons."""
    rows = [
        (metric.when(name).replace("control", "summary"), name, text, metric.unit)
        for metric in metrics()
        for name, text in metric.logged.items()
    ]
    order = ["step", "evaluation", "end", "summary"]
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
        for _, _, kind, _ in metric.charts:
            of_its_course = kind in ("line", "by compute")
            drawn = next(iter(metric.logged)) if of_its_course else f"final/{metric.key}"
            assert drawn in metric.logged
            assert drawn.startswith("final/") != of_its_course


@pytest.mark.parametrize(
    ("when", "names"),
    [
        ("step", {"selection/keep_ratio"}),
        ("evaluation", {"selection/seen", "val/accuracy"}),
        ("end", {"final/seen", "final/val_accuracy"}),
        ("summary", {"summary/seen/POLICY"}),
        ("control", set()),
    ],
)
def test_what_is_logged_when(when, names):
    values = {"keep_ratio": 0.5, "seen": 0.9, "val_accuracy": 0.8, "test_accuracy": None, "x": 1}
    assert set(as_logged(values, when)) == names


if __name__ == "__main__":
    text = GLOSSARY.read_text()
    head, _, rest = text.partition(FIRST)
    GLOSSARY.write_text(head + FIRST + glossary() + LAST + rest.partition(LAST)[2])
