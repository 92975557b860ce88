"""The site of `make docs`: whole, by itself, and refused where a link leads nowhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gstds

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "runs", "dist", ".*_cache", "__pycache__"
)
PLANTED = {
    "no_such_page.md": "[page](no_such_page.md)",
    "no_such_picture.png": "![picture](images/no_such_picture.png)",
    "no-such-anchor": "[anchor](limits.md#no-such-anchor)",
    "no_such_example.py": "[example](../examples/no_such_example.py)",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy, since building lays files out beside the sources."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("site") / "clone", ignore=LEFT_OUT))


def build(clone: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_site_is_whole_and_needs_no_network(clone):
    made = build(clone)
    assert made.returncode == 0, made.stderr
    site = clone / "build" / "site"
    pages = {page.relative_to(site).as_posix(): page.read_text() for page in site.rglob("*.html")}
    for text in pages.values():
        fetched = re.findall(
            r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(https?:[^\"]*)", text
        )
        assert fetched == []
    names = pages["api/gstds/index.html"]
    for name in gstds.__all__:
        assert f"<code>{name}</code>" in names
    select = 'id="gstds.policies.dropin.selector.Selector.select"'
    assert select in pages["api/gstds.policies.dropin.html"]
    for policy in gstds.policy_names():
        assert policy == "custom" or f"policies/{policy}.html" in pages


@pytest.mark.slow
def test_what_leads_nowhere_is_refused_by_name(clone):
    page, config, hook = clone / "docs" / "gpu.md", clone / "mkdocs.yml", clone / ".ci" / "site.py"
    before = {file: file.read_text() for file in (page, config, hook)}
    try:
        page.write_text(before[page] + "\n".join(PLANTED.values()))
        # Without the pages of the API, which take most of the time.
        hook.write_text(before[hook] + "\n\ndef packages():\n    return []\n")
        config.write_text(before[config].replace("      - API: api/\n", ""))
        made = build(clone)
    finally:
        for file, text in before.items():
            file.write_text(text)
    assert made.returncode != 0
    for name in PLANTED:
        assert name in made.stderr
