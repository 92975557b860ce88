"""Checks of arguments whose messages name the parameter, its value and the mend."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import math
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_STANDARD = sysconfig.get_path("stdlib")


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run a user's code: whatever it raises becomes bad input, told by the code's name.

    Args:
        what: For example ``learner 'my_file:network'``.

    Raises:
        ValueError: If the code raises; the message has the kind and the text.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        where = place_of(error)
        told = f"{type(error).__name__}: {error}" + (f" ({where})" if where else "")
        raise ValueError(f"{what} raised {told}") from error


def place(path: str, line: int | None) -> str:
    """Return ``file:line``, the file as seen from here if it lies below."""
    file = Path(path)
    return f"{file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}:{line}"


def place_of(error: BaseException) -> str:
    """Return ``file:line`` of the last frame of an error that is the user's, "" if none is."""
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        ours = frame.f_globals.get("__name__", "").partition(".")[0] == "gstds"
        if not (ours or file.startswith(("<", _STANDARD)) or "site-packages" in file):
            where = place(file, line)
    return where


def require_entries(state: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a saved state that lacks one of the entries named, before any of it is taken up.

    Raises:
        ValueError: The message names the first.
    """
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"the state has no entry {missing[0]!r}: it is of no run of this kind")


def near_names(name: str, known: Iterable[str]) -> str:
    """Return a phrase that lists the known names, the near ones first.

    Args:
        name: The name that was not found.
        known: The names that exist.

    Returns:
        For example ``did you mean 'gstds'? known: full, gstds, random``.
    """
    options = sorted(known)
    near = difflib.get_close_matches(str(name), options, n=3, cutoff=0.5)
    hint = "did you mean " + " or ".join(repr(n) for n in near) + "? " if near else ""
    return f"{hint}known: {', '.join(options) or 'none'}"


def renamed(module: str | None) -> str:
    """Return what became of a package of release 0.1, if a missing module is of one; else ""."""
    top = (module or "").partition(".")[0]
    if top not in ("envs", "policies", "train"):
        return ""
    return f"the project's package {top!r} of release 0.1 is 'gstds.{top}' now (CHANGELOG.md)"


def module_advice(name: str) -> str:
    """Return what to do about a ``module:attribute`` whose module is not found.

    Returns:
        For example ``name the module, not the file: net:make, from the folder parts``.
    """
    module, _, attribute = name.partition(":")
    if module.startswith(".") and "/" not in module:
        return f"name the module without leading dots: {name.lstrip('.')}"
    if not (module.endswith(".py") or "/" in module):
        file = module.replace(".", "/") + ".py"
        top = module.partition(".")[0]
        other = getattr(sys.modules.get(top), "__file__", None)
        if other and Path(file).is_file():
            return f"{top!r} is {other}, which hides the one here; rename yours"
        if renamed(top) and not Path(top).exists():
            return renamed(top)
        return f"run from the folder that holds {file}"
    folder, _, file = module.rpartition("/")
    where = f", from the folder {folder}" if folder.strip("./") else ""
    return f"name the module, not the file: {file.removesuffix('.py')}:{attribute}{where}"


def import_attribute(
    what: str, name: str, *, kind: str = "function", meant: Callable[[Any], bool] = callable
) -> Any:
    """Return the class or function that ``module:attribute`` names.

    The current folder is searched last, so that a file of the user's never hides a library.

    Args:
        what: What it is to be, for example ``learner 'my_file:network'``.
        name: Module and attribute.
        kind: What the attribute is, in messages.
        meant: Whether a member of the module could have been meant.

    Raises:
        ValueError: If the module is not there, cannot be imported, or has nothing of that name.
    """
    module_name, _, attribute = name.partition(":")
    if module_name.startswith("."):
        raise ValueError(f"{what} is no module:{kind}; {module_advice(name)}")
    here = os.getcwd()
    added = [] if here in sys.path else [here]
    sys.path += added
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a user's file does when it is imported
        missing = str(error.name) if isinstance(error, ModuleNotFoundError) else ""
        if missing and f"{module_name}.".startswith(f"{missing}."):
            place = f"in {here} or on the import path; {module_advice(name)}"
            raise ValueError(f"{what}: no module {module_name!r} {place}") from error
        hint = f"; {renamed(missing)}" if renamed(missing) else ""
        where = f" ({place_of(error)})" if place_of(error) else ""
        reason = f"{type(error).__name__}: {error}{hint}{where}"
        raise ValueError(f"{what} cannot be imported: {reason}") from error
    finally:
        for folder in added:
            sys.path.remove(folder)
    found = getattr(module, attribute, None)
    if not callable(found):
        place = getattr(module, "__file__", module_name)
        known = [key for key, value in vars(module).items() if meant(value) and key[0] != "_"]
        raise ValueError(
            f"{what}: no {kind} {attribute!r} in {place}; {near_names(attribute, known)}"
        )
    return found


def check_choice(parameter: str, value: Any, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: If it is not; the message lists the near names.
    """
    options = list(choices)
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{parameter}: unknown name {value!r}; {near_names(str(value), options)}")
    return value


def check_known(who: str, kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Check that names are known to somebody.

    Args:
        who: For example ``policy 'random'``.
        kind: What the names are of, such as ``parameter``.
        given: The names.
        known: Those that there are.

    Raises:
        ValueError: If one is not among them; the message lists the near names.
    """
    options = list(known)
    for name in given:
        if name not in options:
            raise ValueError(f"{who} has no {kind} {name!r}; {near_names(name, options)}")


def check_number(
    parameter: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return ``value`` as a float if it is finite and within the given bounds.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not finite or out of bounds.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{parameter} must be a number, got {value!r}")
    number = float(value)
    too_low = number <= low if open_low else number < low
    too_high = number >= high if open_high else number > high
    if not math.isfinite(number) or too_low or too_high:
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(f"{parameter} must be in {left}{low:g}, {high:g}{right}, got {value!r}")
    return number


def check_fraction(parameter: str, value: Any, **bounds: Any) -> float:
    """Return ``value`` as a float if it lies in [0, 1]; bounds as for `check_number`.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of bounds.
    """
    return check_number(parameter, value, **{"low": 0.0, "high": 1.0, **bounds})


def check_integer(parameter: str, value: Any, *, low: int = 0, high: int | None = None) -> int:
    """Return ``value`` as an int if it is a whole number within the given bounds.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is out of bounds.
    """
    whole = not isinstance(value, bool) and hasattr(value, "__index__")
    if not whole and isinstance(value, float) and value.is_integer():
        whole = True
    if not whole:
        raise TypeError(f"{parameter} must be a whole number, got {value!r}")
    number = int(value)
    if number < low or (high is not None and number > high):
        span = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{parameter} must be {span}, got {value!r}")
    return number


LEAST_SPAN = 3
"""Pixels in 0 to 255 whose values span less show nothing."""


def check_not_empty(name: str, images: Any) -> None:
    """Refuse images that show nothing.

    Args:
        name: What messages call them.
        images: A uint8 array, the images first; about 64 of them are looked at.

    Raises:
        ValueError: If all their pixels are the same, or nearly: so are floats in [0, 1] after a
            cast to uint8.
    """
    some = images[:: max(1, len(images) // 64)]
    low, high = (int(some.min()), int(some.max())) if some.size else (0, 255)
    if high - low < LEAST_SPAN:
        raise ValueError(
            f"{name} shows nothing, with values from {low} to {high} of 255; images in [0, 1] "
            "become uint8 by (X * 255).round().astype('uint8')"
        )
