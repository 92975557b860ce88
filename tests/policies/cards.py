"""Method cards: one page per policy, made from its class, and a table of all.

``python -m tests.policies.cards docs/policies`` writes them; ``--check`` says which are out of
date. What a class says of itself stands in its docstring, behind ``Source:``, ``Cost:``, ``Helps:``
and ``Hurts:``. What was measured comes from the folder's ``measured.json``, which
``benchmarks/policy_cost.py`` writes.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gstds.common.files import write_text
from gstds.policies.base import Policy
from gstds.policies.registry import POLICIES, make_policy, policy_class

SAID = ("Source", "Cost", "Helps", "Hurts")
_SAYS = re.compile(rf"^({'|'.join(SAID)}): (.+(?:\n +.+)*)\n?", re.MULTILINE)
_PHASES = {"train": "training", "score": "scoring", "spectral": "spectral", "policy": "the pick"}
_HEAD = """# Policies
\nWhat each keeps, what it reads for that, and what choosing costs. Behind each name is its card.\n
| name | idea | needs | cost per step | MFLOP | time / full |
| --- | --- | --- | --- | --: | --: |
"""
_NOTE = "\nMade from the classes by `python -m tests.policies.cards docs/policies`. "
_NOTE += "What is left out of the published, and why: [limits](../limits.md).\n"
_HOW = (
    "\n## Measured\n\n`python benchmarks/policy_cost.py --rounds {rounds}`: batches of {batch} "
    "random images of 28 × 28, small-cnn, keep ratio .5 where the policy lets it be set. MFLOP are "
    "what a step is charged. Time is the median, over the rounds, of a policy's step to `full`'s "
    "step in the same round: the kept images' loading, the next batch's scoring and the policy's "
    "own work included, evaluations not. {processor}, {threads} thread, torch {torch}, Python "
    "{python}.\n"
)
Measured = Mapping[str, Any]


def _said(name: str) -> tuple[str, dict[str, str]]:
    """Return the text of a policy's docstring, and what it says of itself, by name."""
    text = inspect.getdoc(policy_class(name)) or ""
    said = {key: " ".join(value.split()) for key, value in _SAYS.findall(text)}
    for key in SAID:
        if key not in said:
            raise ValueError(f"{key.lower()} of policy {name!r} is empty; say it in its docstring")
    return re.sub(r"\n{3,}", "\n\n", _SAYS.sub("", text)).strip(), said


def card(name: str, measured: Measured | None = None) -> str:
    """Return the page of a policy, as Markdown.

    Args:
        name: The policy's.
        measured: What ``benchmarks/policy_cost.py`` wrote, None for a page without.

    Raises:
        ValueError: If there is no such policy, or its docstring does not say one of `SAID`.
    """
    (text, said), policy = _said(name), make_policy(name)
    options = inspect.signature(type(policy)).parameters.values()
    parameters = [
        p.name if p.default is p.empty else f"`{p.name}={p.default!r}`"
        for p in options
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    scored = any(need.startswith("learner_") for need in policy.needs)
    loads = "All that were drawn: the learner scores them." if scored else "Those kept."
    parts = [
        f"# {name}",
        re.sub(r"^    (\w+): ", r"- `\1`: ", text.replace(":\n    ", ":\n\n    "), flags=re.M),
        f"**Source.** {said['Source']}",
        f"**Parameters.** {', '.join(parameters) or 'none'}",
        f"**Needs.** {_needs(policy)}",
        f"**Images loaded per step.** {loads}",
        f"**Costs per step, beside training on the kept.** {said['Cost']}",
        *([_measured(row)] if (row := _row(name, measured)) else []),
        f"**Weights.** At most {policy.max_weight:g}; the loss is divided by the number of samples "
        f"{policy.normalizer}.",
        f"**Helps.** {said['Helps']}",
        f"**Hurts.** {said['Hurts']}",
    ]
    return "\n\n".join(parts) + "\n"


def _needs(policy: Policy) -> str:
    return ", ".join(f"`{name}`" for name in policy.needs) or "nothing optional"


def _row(name: str, measured: Measured | None) -> dict[str, Any]:
    return dict((measured or {}).get("policies", {}).get(name, {}))


def _measured(row: Mapping[str, Any]) -> str:
    spent = [f"{text} {row['megaflops'][phase]:.3g}" for phase, text in _PHASES.items()]
    return (
        f"**Measured per step.** In MFLOP: {', '.join(spent)}. "
        f"{row['relative_time']:.2f} times as long as a step of `full`, at a keep ratio of "
        f"{row['keep']:.2f}. [How, and on what](README.md#measured)."
    )


def cards(measured: Measured | None = None) -> dict[str, str]:
    """Return every page by file name, the table of all as ``README.md``; arguments as `card`."""
    pages = {f"{name}.md": card(name, measured) for name in POLICIES}
    rows = [_table_row(name, _row(name, measured)) for name in sorted(POLICIES)]
    how = _HOW.format_map(measured) if measured else ""
    return pages | {"README.md": _HEAD + "".join(rows) + _NOTE + how}


def _table_row(name: str, row: Mapping[str, Any]) -> str:
    spent = (
        f"{sum(row['megaflops'].values()):,.0f} | {row['relative_time']:.2f}" if row else "- | -"
    )
    text, said = _said(name)
    idea, needs = text.partition("\n")[0], _needs(make_policy(name))
    return f"| [{name}]({name}.md) | {idea} | {needs} | {said['Cost']} | {spent} |\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.policies.cards", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    given = parser.parse_args(arguments)
    noted = _read(given.folder / "measured.json")
    pages = cards(json.loads(noted) if noted else None)
    stale = [name for name, text in pages.items() if _read(given.folder / name) != text]
    if given.check:
        sys.stderr.writelines(f"{given.folder / name} is out of date\n" for name in stale)
        return 1 if stale else 0
    for name in stale:
        write_text(given.folder / name, pages[name])
    return 0


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
