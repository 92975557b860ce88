"""A YAML file of options: each key is an option of the command line, with the same checks.

The file's values become the parser's defaults, so that the command line wins, and so that a value
means the same in both places.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gstds.common.checks import near_names

__all__ = ["load_config_file", "read_yaml", "take_defaults"]

_NOT_IN_FILES = {"config", "resume", "help", "debug"}
# YAML 1.1 takes 1e-3 for a text: it wants 1.0e-3.
_SCIENTIFIC = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text, numbers like 1e-3 included.

    Raises:
        yaml.YAMLError: If it is no YAML, names a key twice, or refers to itself by an alias.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            # Nine lines of aliases of aliases are a text of gigabytes in the first message.
            if self.check_event(yaml.AliasEvent):
                raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not read")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for at, key in enumerate(keys) if key in keys[:at]]
            if twice:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice")
            return super().construct_mapping(node, deep)

    # A tag's resolvers are kept by first character; the class has a copy of its own.
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)  # noqa: S506  (a safe loader)
    except yaml.YAMLError:
        raise
    # A value that does not fit its tag raises whatever its conversion raises.
    except Exception as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


def load_config_file(path: str | Path) -> dict[str, Any]:
    """Return the options of a YAML file, hyphens as underscores; a null is left out.

    Raises:
        ValueError: If the file is missing, is no YAML, or holds no mapping.
    """
    import yaml

    try:
        content = read_yaml(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"config {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config {str(path)!r} is no valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"config {str(path)!r} must map options to values, got {content!r}")
    given = {str(key).replace("-", "_"): value for key, value in content.items()}
    return {key: value for key, value in given.items() if value is not None}


def take_defaults(parser: argparse.ArgumentParser, path: str | Path) -> None:
    """Make the values of a file the parser's defaults.

    Args:
        parser: The command's.
        path: The YAML file.

    Raises:
        TypeError: If a value is of another type than its option.
        ValueError: If the file is unusable or a key is no option of the command.
    """
    options = {a.dest: a for a in parser._actions if a.option_strings}
    known = sorted(set(options) - _NOT_IN_FILES)
    values = load_config_file(path)
    for name, value in values.items():
        if name not in known:
            raise ValueError(
                f"config {str(path)!r}: unknown option {name!r}; {near_names(name, known)}"
            )
        _check(f"config {str(path)!r}: {name}", options[name], value)
    parser.set_defaults(**values)


def _check(name: str, option: argparse.Action, value: Any) -> None:
    """Check what the command line's own types do not."""
    flag = option.nargs == 0
    if flag != isinstance(value, bool):
        raise TypeError(f"{name} must {'' if flag else 'not '}be true or false, got {value!r}")
    if option.metavar == "KEY=VALUE":
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must map names to values, got {value!r}")
    elif option.nargs == "+":
        if not isinstance(value, list) or not value:
            raise TypeError(f"{name} must be a list, such as [a, b], got {value!r}")
    elif option.type in (None, str) and not flag and not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r}")
    elif isinstance(value, list | Mapping):
        raise TypeError(f"{name} must be one value, got {value!r}")
