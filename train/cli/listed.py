"""What `gstds list` says: the tables of names, read from their sources without importing them.

Importing them takes seconds, most of them torch's. A name's description is the text that stands
beside it in its table, or the first line of the docstring of what the table names.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from gstds.common.checks import check_choice
from gstds.observation.spec import observation_names
from gstds.policies.learned.shipped import shipped_agents
from gstds.train.comparing.comparison import PRESETS

TABLES = {
    "policies": "gstds.policies.registry:POLICIES",
    "schedules": "gstds.selection.schedules:SCHEDULES",
    "scores": "gstds.selection.pickers:SCORES",
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
    module, _, table = TABLES[check_choice("KIND", kind, TABLES)].partition(":")
    if kind == "observations":
        return observation_names()
    if kind == "presets":
        return {name: preset["question"] for name, preset in PRESETS.items()}
    tree = _tree(module)
    rows = _value(tree, table)
    pairs = zip(rows.keys, rows.values, strict=True)
    names = {str(ast.literal_eval(key)): _about(row, tree) for key, row in pairs if key}
    if kind == "policies":
        plugins = importlib.metadata.entry_points(group="gstds.policies")
        return {point.name: f"plug-in {point.value}" for point in plugins} | names
    if kind == "agents":
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


def _value(tree: ast.Module, name: str) -> Any:
    """Return what a module assigns to a name."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                return node.value
    raise LookupError(name)


def _text(row: ast.expr, tree: ast.Module) -> str:
    if isinstance(row, ast.JoinedStr):
        return "".join(_text(part, tree) for part in row.values)
    row = _value(tree, ast.unparse(row.value)) if isinstance(row, ast.FormattedValue) else row
    return str(ast.literal_eval(row))


def _about(row: ast.expr, tree: ast.Module) -> str:
    """Return what a table's row says: the last text in it, or the docstring of what it names."""
    if isinstance(row, ast.Tuple | ast.Call):
        parts = row.elts if isinstance(row, ast.Tuple) else row.args
        row = [part for part in parts if isinstance(part, ast.Constant)][-1]
    text = row.id if isinstance(row, ast.Name) else _text(row, tree)
    module, colon, name = text.partition(":")
    if colon and " " not in module:
        tree, text = _tree(module), name
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == text:
            return (ast.get_docstring(node) or "").split("\n")[0]
    return text
