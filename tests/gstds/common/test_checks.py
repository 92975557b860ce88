from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstds.common.checks import (
    check_choice,
    check_fraction,
    check_integer,
    check_number,
    import_attribute,
    module_advice,
    near_names,
)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("my.net:make", "run from the folder that holds my/net.py"),
        ("net.py:make", "name the module, not the file: net:make"),
        ("a/b/net.py:make", "name the module, not the file: net:make, from the folder a/b"),
        ("a/net:make", "name the module, not the file: net:make, from the folder a"),
    ],
)
def test_a_file_that_was_meant_as_a_module(name, advice):
    assert module_advice(name) == advice


@pytest.mark.parametrize("top", ["envs", "policies", "train"])
def test_a_package_of_the_first_release_is_told_its_new_name(tmp_path, monkeypatch, top):
    monkeypatch.chdir(tmp_path)
    assert f"is 'gstds.{top}' now" in module_advice(f"{top}.mine:M")
    (tmp_path / top).mkdir()  # a user's own
    assert module_advice(f"{top}.mine:M") == f"run from the folder that holds {top}/mine.py"


def test_a_package_that_hides_the_users_own_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "net.py").write_text("")
    (tmp_path / "installed" / "mine").mkdir(parents=True)
    other = tmp_path / "installed" / "mine" / "__init__.py"
    other.write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's
    with pytest.raises(ImportError):
        importlib.import_module("mine.net")
    assert module_advice("mine.net:make") == (
        f"'mine' is {other}, which hides the one here; rename yours"
    )
    monkeypatch.delitem(sys.modules, "mine")
    assert module_advice("mine.net:make") == "run from the folder that holds mine/net.py"


def test_the_near_names_come_first():
    assert near_names("gsdts", ["full", "gstds"]) == "did you mean 'gstds'? known: full, gstds"
    assert near_names("zzz", []) == "known: none"


@pytest.mark.parametrize("value", ["Full", "", None, 3, b"full"])
def test_a_name_that_is_not_known_is_refused_with_the_known_ones(value):
    with pytest.raises(ValueError, match=r"policy: unknown name .*known: full, random"):
        check_choice("policy", value, ["random", "full"])


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_fraction_is_finite_and_between_the_bounds(value):
    if 0 <= value <= 1:
        assert check_fraction("keep", value) == value
    else:
        with pytest.raises(ValueError, match=r"keep must be in \[0, 1\], got"):
            check_fraction("keep", value)


def test_open_bounds_exclude_their_ends():
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        check_fraction("keep", 0.0, open_low=True)
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        check_number("beta", 1.0, low=0, high=1, open_high=True)
    assert math.isclose(check_number("beta", np.float32(0.5), low=0, high=1), 0.5)


@pytest.mark.parametrize("value", [True, "0.5", None, [1]])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="must be a number"):
        check_number("price", value)


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (11, ValueError), (2.5, TypeError)])
def test_counts_are_whole_and_within_bounds(value, error):
    with pytest.raises(error, match=r"epochs must be"):
        check_integer("epochs", value, high=10)
    assert check_integer("epochs", 3.0) == 3
    assert check_integer("epochs", np.int64(3)) == 3
    with pytest.raises(TypeError):
        check_integer("epochs", True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".own:load", "name the module without leading dots: own:load"),
        ("own.py:load", "name the module, not the file: own:load"),
        ("absent:load", "no module 'absent' in .*run from the folder that holds absent.py"),
        ("own:laod", "no function 'laod' in .*own.py; did you mean 'load'"),
        ("own:number", "no function 'number' in"),
        ("halting:load", "cannot be imported: SystemExit: 3"),
        (
            "lacking:load",
            "ModuleNotFoundError: .*'envs.old'; .*'gstds.envs' now",
        ),
    ],
)
def test_what_cannot_be_imported_is_told_with_the_mend(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("number = 1\ndef load(): return 7\n")
    (tmp_path / "halting.py").write_text("raise SystemExit(3)")
    lacking = "raise ModuleNotFoundError(\"No module named 'envs.old'\", name='envs.old')"
    (tmp_path / "lacking.py").write_text(lacking)
    path = list(sys.path)
    with pytest.raises(ValueError, match=f"thing 'x'.*{message}"):
        import_attribute("thing 'x'", name)
    assert import_attribute("thing 'x'", "own:load")() == 7
    assert sys.path == path
    monkeypatch.delitem(sys.modules, "own")
