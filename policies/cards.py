"""Method cards: one page per policy, made from its class, and a table of all.

``python -m gstds.policies.cards docs/policies`` writes them; ``--check`` says which are out of
date. What was measured comes from the folder's ``measured.json``: ``benchmarks/policy_cost.py``
writes it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gstds.common.files import write_text
from gstds.policies.base import Policy
from gstds.policies.registry import POLICIES, make_policy, policy_class

__all__ = ["card", "cards", "main"]

ATTRIBUTES = ("source", "cost", "helps", "hurts")
MEASURED = "measured.json"
_PHASES = {"train": "training", "score": "scoring", "spectral": "spectral", "policy": "the pick"}
Measured = Mapping[str, Any]


def card(name: str, measured: Measured | None = None) -> str:
    """Return the page of a policy, as Markdown.

    Args:
        name: The policy's.
        measured: What ``benchmarks/policy_cost.py`` wrote, None for a page without.

    Raises:
        ValueError: If there is no such policy, or one of its class attributes is empty.
    """
    kind, policy = policy_class(name), make_policy(name)
    for attribute in ATTRIBUTES:
        if not getattr(kind, attribute):
            raise ValueError(f"{attribute} of policy {name!r} is empty; say it in its class")
    parts = [
        f"# {name}",
        inspect.getdoc(kind) or "",
        f"**Source.** {kind.source}",
        f"**Parameters.** {_parameters(kind)}",
        f"**Needs.** {_needs(policy)}",
        f"**Images loaded per step.** {_loads(policy)}",
        f"**Costs per step, beside training on the kept.** {kind.cost}",
        *_measured(name, measured),
        f"**Weights.** At most {policy.max_weight:g}; the loss is divided by the number of samples "
        f"{policy.normalizer}.",
        f"**Helps.** {kind.helps}",
        f"**Hurts.** {kind.hurts}",
    ]
    return "\n\n".join(parts) + "\n"


def _parameters(kind: type[Policy]) -> str:
    found = [
        str(p.name) if p.default is p.empty else f"`{p.name}={p.default!r}`"
        for p in inspect.signature(kind).parameters.values()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    return ", ".join(found) or "none"


def _needs(policy: Policy) -> str:
    return ", ".join(f"`{name}`" for name in policy.needs) or "nothing optional"


def _loads(policy: Policy) -> str:
    if any(name.startswith("learner_") for name in policy.needs):
        return "All that were drawn: the learner scores them."
    return "Those kept."


def _row(name: str, measured: Measured | None) -> dict[str, Any]:
    row = (measured or {}).get("policies", {}).get(name)
    return dict(row) if row else {}


def _measured(name: str, measured: Measured | None) -> list[str]:
    row = _row(name, measured)
    if not row:
        return []
    spent = [f"{text} {row['megaflops'][p]:.3g}" for p, text in _PHASES.items()]
    return [
        f"**Measured per step.** In MFLOP: {', '.join(spent)}. "
        f"{row['relative_time']:.2f} times as long as a step of `full`, at a keep ratio of "
        f"{row['keep']:.2f}. [How, and on what](README.md#measured)."
    ]


def cards(measured: Measured | None = None) -> dict[str, str]:
    """Return every page by file name, the table of all as ``README.md``; arguments as `card`."""
    pages = {f"{name}.md": card(name, measured) for name in POLICIES}
    head = [
        "# Policies",
        "",
        "| name | idea | needs | cost per step | MFLOP | time / full |",
        "| --- | --- | --- | --- | --: | --: |",
    ]
    rows = [_table_row(name, measured) for name in sorted(POLICIES)]
    note = "Made from the classes by `python -m gstds.policies.cards docs/policies`."
    return pages | {"README.md": "\n".join([*head, *rows, "", note, "", *_how(measured)])}


def _table_row(name: str, measured: Measured | None) -> str:
    row = _row(name, measured)
    spent = f"{sum(row['megaflops'].values()):,.0f}" if row else "-"
    took = f"{row['relative_time']:.2f}" if row else "-"
    kind = policy_class(name)
    cells = [f"[{name}]({name}.md)", _line(kind), _needs(make_policy(name)), kind.cost, spent, took]
    return "| " + " | ".join(cells) + " |"


def _how(measured: Measured | None) -> list[str]:
    if not measured:
        return []
    return [
        "## Measured",
        "",
        f"`python benchmarks/policy_cost.py --rounds {measured['rounds']}`: batches of "
        f"{measured['batch']} random images of 28 × 28, small-cnn, keep ratio .5 where the policy "
        "lets it be set. MFLOP are what a step is charged. Time is the median, over the rounds, of "
        "a policy's step to `full`'s step in the same round: the kept images' loading, the next "
        "batch's scoring and the policy's own work included, evaluations not. "
        f"{measured['processor']}, {measured['threads']} thread, torch {measured['torch']}, "
        f"Python {measured['python']}.",
        "",
    ]


def _line(kind: type[Policy]) -> str:
    return (inspect.getdoc(kind) or "").split("\n")[0]


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gstds.policies.cards", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    given = parser.parse_args(arguments)
    noted = _read(given.folder / MEASURED)
    pages = cards(json.loads(noted) if noted else None)
    stale = [n for n, text in pages.items() if _read(given.folder / n) != text]
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
