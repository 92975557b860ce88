"""The check of private names: a read from outside is found, however it is written."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "private_names"
LISTED = "os _exit  # ends at once\n"
OWNER = """
import os

class Owner:
    __slots__ = ("_slot",)
    _shared = 1

    def __init__(self, other):
        self._own = other._own
        object.__setattr__(self, "_frozen", 2)

    def _method(self):
        return self._own, self._slot, self._shared, self._frozen, self._method

def _function():
    return os._exit(0)
"""


def check(root: Path) -> tuple[int, list[str]]:
    """Run the script; return its exit code, and what it found."""
    command = [sys.executable, SCRIPT, root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ("" if done.returncode == 0 else "1 private names to mend\n")
    return done.returncode, done.stdout.splitlines()


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    loader = SourceFileLoader("gstds_private_names", str(SCRIPT))
    module = module_from_spec(spec_from_loader("gstds_private_names", loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    """A project that passes: an owner in a nested room, and the list of libraries' names."""
    room = tmp_path / "gstds" / "envs" / "room"
    room.mkdir(parents=True)
    (room / "owner.py").write_text(OWNER)
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "library_private_names.txt").write_text("# names\n\n" + LISTED)
    return tmp_path


def test_here_nothing_private_is_read_from_outside():
    assert check(ROOT) == (0, [])


@pytest.mark.parametrize("folder", ["gstds/train/room", "envs", "tests/deep", "examples"])
def test_a_planted_read_is_printed_and_fails(tree, folder):
    assert check(tree) == (0, [])
    place = tree / folder / "reader.py"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\ndef f(owner):\n    return owner._own\n")
    assert check(tree) == (1, [f"{folder}/reader.py:3 owner._own"])


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def f(owner): return owner._own", "owner._own"),
        ("def f(owner): owner._own = 1", "owner._own"),
        ("def f(owner): del owner.part._own", "owner.part._own"),
        ("from gstds.envs.room.owner import _function", "gstds.envs.room.owner._function"),
        ("from envs.owner import Owner, _function as f", "envs.owner._function"),
        ("from ..owner import _function", "..owner._function"),
        ("class C(Owner):\n def f(self): return self._own", "self._own"),
        ("class C(Owner):\n def f(self): return super()._method()", "super()._method"),
        ("_own = 1\ndef f(owner): return owner._own", "owner._own"),
        ("def f(owner): return getattr(owner, '_own', None)", "getattr(owner, '_own', None)"),
        ("def f(m, owner): m.setattr(owner, '_own', 1)", "m.setattr(owner, '_own', 1)"),
        ("def f(m): m.setattr('a.owner._own', 1)", "m.setattr('a.owner._own', 1)"),
        ("def f(library): library._exit(0)", "library._exit"),
    ],
)
def test_a_read_from_outside_is_found(script, tree, source, name):
    (tree / "gstds" / "reader.py").write_text(source)
    line = len(source.splitlines())
    assert script.findings(tree) == [f"gstds/reader.py:{line} {name}"]


def test_what_is_not_private_or_listed_is_let_be(script, tree):
    (tree / "gstds" / "_room").mkdir()
    (tree / "gstds" / "_file.py").write_text("")
    (tree / "gstds" / "reader.py").write_text(
        "import os\nfrom gstds import _file, _room\nfrom . import _file as again\n"
        "def f(_, x): return os._exit(0), x.__dict__, _, getattr(x, '__name__'), '_text'\n"
    )
    assert script.findings(tree) == []


def test_a_listed_name_that_is_not_read_is_found(script, tree):
    place = tree / ".ci" / "library_private_names.txt"
    place.write_text(LISTED + "torch _exit  # of another library\nos _fork  # never read\n")
    assert script.findings(tree) == [
        ".ci/library_private_names.txt:2 torch _exit is not read",
        ".ci/library_private_names.txt:3 os _fork is not read",
    ]


@pytest.mark.parametrize("line", ["os _exit", "os _exit  #", "_exit  # why"])
def test_a_line_without_library_or_reason_is_refused(script, tree, line):
    (tree / ".ci" / "library_private_names.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"library_private_names.txt:1 must be `library name"):
        script.findings(tree)
