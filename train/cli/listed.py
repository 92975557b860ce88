"""What `gstds list` says: the tables of names, read from their sources without importing them.

Importing them takes seconds, most of them torch's. A name's description is the text that stands
beside it in its table, or the first line of the docstring of what the table names.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

from gstds.common.checks import check_choice
from gstds.train.comparing.comparison import PRESETS

__all__ = ["TABLES", "listed"]

TABLES = {
    "policies": "gstds.policies.registry:POLICIES",
    "schedules": "gstds.selection.schedules:SCHEDULES",
    "scores": "gstds.selection.scores:SCORES",
    "pickers": "gstds.selection.pickers:PICKERS",
    "datasets": "gstds.envs.data.named:SOURCES",
    "learners": "gstds.envs.learner.models:LEARNERS",
    "references": "gstds.reference.networks:REFERENCES",
    "agents": "gstds.train.agents.models:AGENTS",
    "observations": "",
    "presets": "",
}
"""Where each kind of name has its table; those that import nothing heavy are asked."""


def listed(kind: str) -> dict[str, str]:
    """Return the names of a kind, each with a line about it.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind == "observations":
        from gstds.observation.spec import observation_names

        return observation_names()
    if kind == "presets":
        return {name: preset["question"] for name, preset in PRESETS.items()}
    module, _, table = TABLES[check_choice("KIND", kind, TABLES)].partition(":")
    tree = _tree(module)
    value = _assigned(tree)[table]
    assert isinstance(value, ast.Dict)  # noqa: S101  (each table is one)
    names = {
        str(ast.literal_eval(key)): _about(one, tree)
        for key, one in zip(value.keys, value.values, strict=True)
        if key is not None
    }
    if kind == "policies":
        from importlib.metadata import entry_points

        plugins = entry_points(group="gstds.policies")
        return {point.name: f"plug-in {point.value}" for point in plugins} | names
    if kind == "agents":
        from gstds.policies.learned.shipped import shipped_agents

        algorithms = {name: f"algorithm: {text}" for name, text in names.items()}
        shipped = shipped_agents().items()
        return algorithms | {f"learned:{name}": f"policy: {text}" for name, text in shipped}
    return names


@functools.cache
def _tree(module: str) -> ast.Module:
    """Return a module's source, parsed; its parents below ``gstds`` are not imported either."""
    package, *rest = module.removeprefix("gstds.").split(".")
    spec = importlib.util.find_spec(f"gstds.{package}")
    folder = Path(str(spec and spec.origin)).parent
    return ast.parse(folder.joinpath(*rest).with_suffix(".py").read_text(encoding="utf-8"))


def _assigned(tree: ast.Module) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found |= {ast.unparse(target): node.value}
    return found


def _about(value: ast.expr, tree: ast.Module) -> str:
    """Return what the value of a table's row says: the last text in it, or what it names."""
    if isinstance(value, ast.Name):
        return _first_line(value.id, tree)
    if isinstance(value, ast.Tuple | ast.Call):
        parts = value.elts if isinstance(value, ast.Tuple) else value.args
        return [str(p.value) for p in parts if isinstance(p, ast.Constant)][-1]
    text = _text(value, tree)
    module, colon, name = text.partition(":")
    return _first_line(name, _tree(module)) if colon and " " not in module else text


def _text(value: ast.expr, tree: ast.Module) -> str:
    if isinstance(value, ast.JoinedStr):
        return "".join(_text(part, tree) for part in value.values)
    if isinstance(value, ast.FormattedValue) and isinstance(value.value, ast.Name):
        return _text(_assigned(tree)[value.value.id], tree)
    return str(ast.literal_eval(value))


def _first_line(name: str, tree: ast.Module) -> str:
    kinds = (ast.ClassDef, ast.FunctionDef)
    node = next(n for n in tree.body if isinstance(n, kinds) and n.name == name)
    return (ast.get_docstring(node) or "").split("\n")[0]
