"""The suite's guard of the clone and the home fails a session that leaves anything behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = Path(__file__).parents[1] / "untouched.py"
TESTS = {
    "nothing": "pass",
    "caches": "Path('.hypothesis').mkdir(); Path('a.egg-info').mkdir()",
    "mlflow.db": "Path('mlflow.db').touch()",
    "runs": "Path('runs/one').mkdir(parents=True)",
    "there": "Path('there').write_text('longer')",
    "home/.mlflow": "(Path.home() / '.mlflow').mkdir()",
    "home/.cache/gstds/data/x": "(Path.home() / '.cache/gstds/data/x').touch()",
}


@pytest.fixture
def clone(tmp_path):
    """A clone with the guard in its conftest, beside a home."""
    place = tmp_path / "clone"
    place.mkdir()
    shutil.copy(GUARD, place / "conftest.py")
    (place / "pytest.ini").touch()
    (place / "there").touch()
    (tmp_path / "home" / ".cache" / "gstds" / "data").mkdir(parents=True)
    return place


def session(clone, body, *words):
    (clone / "test_it.py").write_text(f"from pathlib import Path\n\ndef test_it():\n    {body}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *words],
        cwd=clone,
        env=os.environ | {"HOME": str(clone.parent / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", TESTS)
def test_a_session_that_leaves_something_behind_fails_and_names_it(clone, name):
    done = session(clone, TESTS[name], "-p", "no:xdist")
    assert "1 passed" in done.stdout
    wanted = name not in ("nothing", "caches")
    assert done.returncode == wanted
    assert (name in done.stdout) == wanted


def test_the_process_that_distributes_looks(clone):
    pytest.importorskip("xdist")
    done = session(clone, TESTS["mlflow.db"], "-n", "1")
    assert done.returncode == 1
    assert done.stdout.count("mlflow.db") == 1
    (clone / "mlflow.db").unlink()
    assert session(clone, TESTS["nothing"], "-n", "1").returncode == 0
