"""What tests expect to be refused or warned of, as rows of docs/errors.md.

A test with the mark ``told(section, *given)`` stands on that page. Each ``given`` says, as
Markdown, what leads to one of the errors and warnings that the test expects by ``pytest.raises``
and ``pytest.warns``, or notes by `note`, in their order; None leaves one out, as does a list that
is shorter. ``{name}`` in it is what the test's ``parametrize`` writes for that argument, ``{id}``
the case's name. ``works=WORDS`` says of the first what the test, by passing, shows to work.

The test fails unless the page has its rows; ``python -m tests.train.cli.test_errors_page`` runs all
of them and writes it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import operator
import os
import re
import textwrap
from pathlib import Path
from unittest import mock

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
WARNED = "What is warned of, or made to work"
SECTIONS = (
    *("Policies and plug-ins", "Loops of your own", "Loaders and frameworks"),
    *("Data", "Networks", "Environments", "Where results go", WARNED),
)
LONGEST = 200
rows: list[tuple[str, str]] | None = None
"""Section and line of each row, while the page is written; else the page must have them."""
_noted: list[tuple[str, str]] = []


def note(answer: str, section: str = "") -> None:
    """Note what the user is told, in the section of the test's mark unless another is named."""
    _noted.append((section, cell(answer)))


def cell(text: str) -> str:
    """Return what is told, as code, without what differs between machines and releases."""
    for place in (os.getcwd(), PAGE.parents[1]):
        text = text.replace(str(place), "HERE")
    text = re.sub(r"/[\w/.-]*pytest-\d+/(popen-gw\d+/)?\w+", "HERE", text)
    text = re.sub(r"[\w/.-]+\.py:\d+", "FILE:LINE", text)
    text = re.sub(r"0x[0-9a-f]+|[0-9a-f]{32,}", "…", text)
    # Names known to this installation, which a plug-in would change, are left out.
    short = " ".join(text.split()).partition("known: ")[0].strip().rstrip(";")
    return "`" + _short(short, LONGEST) + "`"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    mark = item.get_closest_marker("told")
    if mark is None:
        return (yield)
    _noted.clear()
    with mock.patch.multiple(pytest, raises=_raises, warns=_warns):
        done = yield
    section, *given = mark.args
    if words := mark.kwargs.get("works"):
        _noted.insert(0, (WARNED, words))
    assert section in SECTIONS
    assert len(given) <= len(_noted), f"{len(given)} are said to be told, but only {_noted}"
    case = getattr(item, "callspec", None)
    names = (_written(item) if case else {}) | {"id": case and case.id}
    for text, (other, answer) in zip(given, _noted, strict=False):
        if text is not None:
            said = text.format_map(names).replace(" ``", "").replace(", )", ")")
            _keep(other or section, f"| {said} | {answer} |")
    return done


def _keep(section: str, line: str) -> None:
    if rows is not None:
        rows.extend([(section, line)] * ((section, line) not in rows))
    elif line not in _page():
        pytest.fail(f"run: python -m tests.train.cli.test_errors_page\n{PAGE} lacks\n{line}", False)


@functools.cache
def _page() -> frozenset[str]:
    return frozenset(PAGE.read_text().splitlines())


_pytests = {"raises": pytest.raises, "warns": pytest.warns}


@contextlib.contextmanager
def _raises(*kinds, **options):
    with _pytests["raises"](*kinds, **options) as caught:
        yield caught
    note(f"{caught.type.__name__}: {caught.value}")


@contextlib.contextmanager
def _warns(*kinds, match=None, **options):
    with _pytests["warns"](*kinds, match=match, **options) as warned:
        yield warned
    told = [str(one.message) for one in warned]
    note(next(one for one in told if re.search(match or "", one)), WARNED)


def _written(item) -> dict[str, str]:
    """Return the source of each argument of a case, as far as its rows are written in a list."""
    found = {}
    for mark in ast.parse(textwrap.dedent(inspect.getsource(item.function))).body[0].decorator_list:
        if not ast.unparse(mark).startswith("pytest.mark.parametrize"):
            continue
        names = ast.literal_eval(mark.args[0])
        names = names.replace(",", " ").split() if isinstance(names, str) else list(names)
        if isinstance(mark.args[1], ast.List | ast.Tuple):
            case = mark.args[1].elts[_place(item, names)]
            values = case.elts if len(names) > 1 else [case]
            found |= dict(zip(names, map(_code, values), strict=True))
    return found


def _place(item, names: list[str]) -> int:
    """Return which of a parametrize's rows a case has."""
    given = [item.callspec.params[name] for name in names]
    for mark in item.iter_markers("parametrize"):
        for place, case in enumerate(mark.args[1]):
            values = case if len(names) > 1 else [case]
            if len(values) == len(given) and all(map(operator.is_, values, given)):
                return place
    raise AssertionError(f"{item.nodeid}: which row is it?")


def _code(value: ast.expr) -> str:
    """Return source: a string without its quotes, a dict of options as keywords."""
    text = ast.unparse(value)
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        text = value.value
    if isinstance(value, ast.Dict):
        pairs = zip(value.keys, value.values, strict=True)
        text = ", ".join(f"{ast.literal_eval(k)}={ast.unparse(v)}" for k, v in pairs if k)
    return _short(text, 75)


def _short(text: str, longest: int) -> str:
    short = text if len(text) <= longest else text[:longest] + "…"
    return short.replace("|", "\\|").replace("`", "'")
