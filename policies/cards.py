"""Method cards: one page per policy, made from its class, and a table of all.

``python -m policies.cards docs/policies`` writes them; ``--check`` says which are out of date.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from gstds.files import write_text
from policies.base import Policy
from policies.registry import POLICIES, make_policy, policy_class

__all__ = ["card", "cards", "main"]

ATTRIBUTES = ("source", "cost", "helps", "hurts")


def card(name: str) -> str:
    """Return the page of a policy, as Markdown.

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


def cards() -> dict[str, str]:
    """Return every page by file name, the table of all as ``README.md``."""
    pages = {f"{name}.md": card(name) for name in POLICIES}
    rows = [
        f"| [{name}]({name}.md) | {_line(policy_class(name))} | {_needs(make_policy(name))} | "
        f"{policy_class(name).cost} |"
        for name in sorted(POLICIES)
    ]
    head = [
        "# Policies",
        "",
        "| name | idea | needs | cost per step |",
        "| --- | --- | --- | --- |",
    ]
    note = "Made from the classes by `python -m policies.cards docs/policies`."
    return pages | {"README.md": "\n".join([*head, *rows, "", note, ""])}


def _line(kind: type[Policy]) -> str:
    return (inspect.getdoc(kind) or "").split("\n")[0]


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m policies.cards", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    given = parser.parse_args(arguments)
    pages = cards()
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
