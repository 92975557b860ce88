"""The saved view in a real browser: Debian's chromium, against a real MLflow server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from gstds.train.cli.main import main
from gstds.train.figures.plots import policy_color

pytestmark = pytest.mark.slow

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
ROWS = ("random", "full", "short-full (control)")
SECONDS = 120_000


@pytest.fixture
def page(tmp_path):
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=program,
            env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
            args=list(FLAGS),
            headless=True,
            viewport={"width": 1500, "height": 3000},
        )
        browser.set_default_timeout(SECONDS)
        yield browser.pages[0]
        browser.close()


@pytest.fixture
def link(tmp_path, tiny_npz, store_uri, free_port, monkeypatch, capsys):
    """The link that `gstds ui` prints after a comparison; a real server answers to it."""
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--policies", "random", "full", "--seeds", "2", "--dataset", tiny_npz]
    words += ["--epochs", "3", "--batch-size", "32", "--out", "seen", "--quiet"]
    assert main([*words, "--tracking-uri", store_uri]) == 0, capsys.readouterr().err
    command = [sys.executable, "-m", "gstds.train.cli.main", "ui", "--port", str(free_port)]
    process = subprocess.Popen(
        [*command, "--tracking-uri", store_uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield next(line for line in process.stdout if "workflowType" in line).strip()
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_link_opens_the_charts_grouped_by_policy_with_curves_drawn(page, link):
    page.goto(link)
    for section in ("Better, and at what cost", "Cost", "What was kept", "All at once"):
        page.get_by_text(section, exact=True).first.wait_for()
    for row in ROWS:
        page.get_by_text(re.compile(f"^Group: {re.escape(row)}[\u200b\u200c]*$")).first.wait_for()
    text = page.inner_text("body")
    assert "gstds: seen" in text
    assert "6 matching runs" in text  # two seeds of three policies; the summary is not among them
    # Accuracy against compute: a line for each policy, on an axis that reaches full training's.
    chart = page.locator(".js-plotly-plot", has_text="charged TFLOP").first
    chart.locator(".scatterlayer .trace path.js-line").first.wait_for(state="attached")
    lines = chart.evaluate(
        "plot => plot.data.filter(t => t.mode === 'lines+markers')"
        ".map(t => [t.uuid.replace('tag.row.', ''), t.x.length, Math.max(...t.x), t.marker.color])"
    )
    seen = {name.strip("\u200b\u200c"): more for name, *more in lines}
    assert set(seen) == set(ROWS)
    assert all(points >= 3 for points, _, _ in seen.values())
    # Each has the color of our own plots.
    assert {name: color for name, (*_, color) in seen.items()} == {
        name: policy_color(name.removesuffix(" (control)")) for name in ROWS
    }
    ends = {name: end for name, (_, end, _) in seen.items()}
    assert ends["full"] > 1.5 * ends["random"] > 0
    # Bars and points are drawn too, and the parallel coordinates on their canvas.
    page.locator(".js-plotly-plot .barlayer .point").first.wait_for(state="attached")
    points = page.locator(".js-plotly-plot", has_text="mean keep ratio").first
    points.locator(".scatterlayer .trace .point").first.wait_for(state="attached")
    page.get_by_text("Parallel Coordinates").first.scroll_into_view_if_needed()
    page.locator("canvas, .parcoords svg").first.wait_for(state="attached")
