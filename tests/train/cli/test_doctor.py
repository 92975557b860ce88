from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gstds
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
        "gstds.reference.backbones.IMAGENET_RESNET50", "http://127.0.0.1:9/resnet50-1.pth"
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


@pytest.mark.parametrize("with_init", [True, False])
@pytest.mark.parametrize("name", ["gstds", "envs", "policies", "train"])
def test_a_folder_of_the_user_that_shadows_is_named(tmp_path, monkeypatch, name, with_init):
    (tmp_path / name).mkdir()
    if with_init:
        (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    problems = check_shadowing()
    code = [sys.executable, "-c", "import gstds; print(gstds.__version__)"]
    works = subprocess.run(code, capture_output=True, check=False).returncode == 0
    assert works or name == "gstds"  # the other names are nobody's
    if works:
        assert problems == []
    else:
        (problem,) = problems
        assert str(tmp_path / "gstds") in problem
        assert gstds.__file__ in problem
