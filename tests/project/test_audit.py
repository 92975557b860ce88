"""The audit of what is installed: a changed file or another content of a wheel is found."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit"


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """The script as a module, with a list of its own, and an environment of one package."""
    loader = SourceFileLoader("gstds_audit", str(SCRIPT))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = module_from_spec(spec_from_loader("gstds_audit", loader))
    loader.exec_module(module)
    monkeypatch.setattr(module, "LIST", tmp_path / "packages.sha256")
    install(tmp_path, b"x = 1\n")
    return module


def install(folder, content: bytes) -> Path:
    place = folder / "venv" / "lib" / "python3.11" / "site-packages"
    info = place / "tiny-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nTag: py3-none-any\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    record = f"tiny.py,sha256={digest},{len(content)}\ntiny-1.0.dist-info/RECORD,,\n"
    (info / "RECORD").write_text(record)
    (place / "tiny.py").write_bytes(content)
    return place / "tiny.py"


def test_what_is_on_the_list_passes(audit, tmp_path, capsys):
    assert audit.by_hash(tmp_path / "venv", write=True)
    assert audit.by_hash(tmp_path / "venv")
    assert "1 packages checked by hash, 0 not on the list" in capsys.readouterr().out


def test_a_file_that_was_changed_is_found(audit, tmp_path, capsys):
    audit.by_hash(tmp_path / "venv", write=True)
    place = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    (place / "tiny.py").write_text("x = 2\n")
    assert not audit.by_hash(tmp_path / "venv")
    assert "tiny.py is not what the wheel holds" in capsys.readouterr().err


def test_another_wheel_under_the_same_name_is_found(audit, tmp_path, capsys):
    audit.by_hash(tmp_path / "venv", write=True)
    install(tmp_path, b"x = 3\n")
    assert not audit.by_hash(tmp_path / "venv")
    assert "tiny 1.0 py3-none-any holds something else" in capsys.readouterr().err


def test_a_package_that_the_list_does_not_know_is_named(audit, tmp_path, capsys):
    assert audit.by_hash(tmp_path / "venv")
    assert "tiny 1.0 py3-none-any is not on the list" in capsys.readouterr().out


def test_the_list_is_not_written_over_by_what_differs(audit, tmp_path):
    audit.by_hash(tmp_path / "venv", write=True)
    before = audit.LIST.read_text()
    install(tmp_path, b"x = 4\n")
    assert not audit.by_hash(tmp_path / "venv", write=True)
    assert audit.LIST.read_text() == before


def test_this_environment_passes_by_hash():
    venv = Path(sys.prefix)
    if not list((venv / "lib").glob("python*/site-packages")):
        pytest.skip("the tests run outside a virtual environment")
    code = f"import runpy; m = runpy.run_path({str(SCRIPT)!r}); "
    code += f"raise SystemExit(not m['by_hash'](m['Path']({str(venv)!r})))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
