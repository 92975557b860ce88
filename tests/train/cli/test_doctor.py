from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gstds.train.cli.doctor import (
    Check,
    check_resnet50,
    check_shadowing,
    check_store,
    diagnose,
    guarded,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def checks():
    return {check.name: check for check in diagnose()}


@pytest.mark.slow
def test_every_check_is_whole(checks):
    assert {"python", "torch", "threads", "devices", "data digits", "cache"} <= set(checks)
    for check in checks.values():
        assert check.status in ("ok", "warn", "fail")
        assert check.detail
        assert bool(check.mend) == (check.status != "ok"), check


@pytest.mark.slow
def test_what_ships_with_the_project_is_ready(checks):
    for name in ("python", "torch", "torchvision import", "data digits", "packages' places"):
        assert checks[name].status == "ok", checks[name]


def test_the_papers_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        "gstds.reference.networks.IMAGENET_RESNET50", "http://127.0.0.1:9/resnet50-1.pth"
    )
    missing = check_resnet50()
    assert missing.status == "warn"
    assert f"put resnet50-1.pth into {tmp_path}" in missing.mend
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet50-1.pth").write_text("")
    assert check_resnet50().status == "ok"


def test_a_bad_store_is_a_failed_check_not_an_exception(tmp_path):
    (check,) = check_store(f"sqlite:///{tmp_path}")
    assert check.status == "fail"
    assert "names a folder" in check.detail


def test_a_check_that_breaks_is_reported():
    def broken():
        yield Check("first", "ok", "fine")
        raise RuntimeError("http://me:secret@host is broken")

    first, second = guarded("mine", broken)
    assert first.status == "ok"
    assert (second.name, second.status) == ("mine", "fail")
    assert "secret" not in second.detail


def test_nothing_shadows_here():
    assert check_shadowing() == []


@pytest.mark.parametrize(
    "shadow",
    [
        *("gstds.py", "gstds/", "gstds/__init__.py", "envs/", "envs/__init__.py", "policies.py"),
        *("train.py", "mlflow/", "mlflow.py", "mlflow/__init__.py", "numpy/__init__.py"),
    ],
)
def test_what_shadows_in_a_users_process_is_named(tmp_path, monkeypatch, shadow):
    place = tmp_path / shadow
    if shadow.endswith(".py"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("raise RuntimeError('the user's own')\n")
    else:
        place.mkdir()
    monkeypatch.chdir(tmp_path)
    problems = check_shadowing()
    # What a user's process does; a folder without __init__ never hides an installed package.
    name = Path(shadow).parts[0].removesuffix(".py")
    library = name if name in ("mlflow", "numpy") else "gstds"
    code = [sys.executable, "-c", f"import gstds, {library}; gstds.__version__, {library}.__file__"]
    works = subprocess.run(code, capture_output=True, check=False).returncode == 0
    if works:
        assert problems == []
    else:
        (problem,) = problems
        assert problem.startswith(f"package {name!r} comes from {place}")
        kind = "file" if shadow.count("/") == 0 else "folder"
        assert f"rename that {kind} or" in problem
    assert works == (
        shadow.split("/")[0] in ("envs", "policies.py", "train.py") or shadow == "mlflow/"
    )


def test_files_of_the_folder_are_looked_at_and_not_run(tmp_path, monkeypatch):
    for name in ("gstds.py", "mlflow.py"):
        (tmp_path / name).write_text("open('it-ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    assert len(check_shadowing()) == 2
    assert not (tmp_path / "it-ran").exists()


def test_a_python_that_cannot_import_it_at_all_is_told(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise RuntimeError('mine')\n")
    monkeypatch.chdir(tmp_path)
    (problem,) = check_shadowing()
    assert "cannot import gstds" in problem
    assert problem.endswith("RuntimeError: mine")
