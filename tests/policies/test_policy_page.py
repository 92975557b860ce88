"""Three pages of the docs are made from the table of observations and the classes of policies.

``python -m tests.policies.test_policy_page`` writes them.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from gstds.observation.spec import OBSERVATIONS
from gstds.policies import KeepRatioPolicy, Policy, RunContext, Transition, make_policy
from gstds.policies.registry import POLICIES
from gstds.train.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = {
    ROOT / "docs" / f"{name}.md": Path(__file__).with_name(f"{name.replace('-', '_')}_page.md")
    for name in ("policy", "policy-reference", "observations")
}
EXAMPLES = ("follow_validation", "remember_samples", "learn_from_reward")
LIFE = ("reset", "act", "learn", "step_flops", "predict")


def first_lines(text: str) -> str:
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def attributes(kind: type) -> list[str]:
    """Return the attributes of a class's docstring as rows of a table."""
    part = inspect.getdoc(kind).partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", part, re.MULTILINE)
    return [f"| `{name}` | {' '.join(text.split())} |" for name, text in found]


def users_of(name: str) -> str:
    asked = OBSERVATIONS[name].beside or name
    return ", ".join(f"`{policy}`" for policy in POLICIES if asked in make_policy(policy).needs)


def observations() -> list[str]:
    lines = []
    for name, row in OBSERVATIONS.items():
        cost = row.cost or (f"with `{row.beside}`" if row.beside else "always there")
        options = ", ".join(f"`{option}`" for option in row.options)
        cells = [f"`{name}`", row.span, row.meaning, cost, options, users_of(name)]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return lines


def life() -> list[str]:
    lines = []
    for name in LIFE:
        call = ", ".join(list(inspect.signature(getattr(Policy, name)).parameters)[1:])
        lines.append(f"| `{name}({call})` | {first_lines(getattr(Policy, name).__doc__)} |")
    ratio = first_lines(KeepRatioPolicy.keep_ratio.__doc__)
    return [*lines, f"| `keep_ratio(observation)` | of a `KeepRatioPolicy`: {ratio} |"]


def examples() -> list[str]:
    lines = []
    for name in EXAMPLES:
        text = (ROOT / "examples" / f"{name}.py").read_text()
        title = text.partition("\n")[0].strip('"').partition(":")[0]
        body = text.partition("\n\n")[2].strip()
        lines += [f"{title} ([file](../examples/{name}.py)):", "", "```python", body, "```", ""]
    return lines


def page(template: Path) -> str:
    """Return a page: its template, filled in."""
    parts = {
        "life": life(),
        "declares": attributes(Policy),
        "observations": observations(),
        "context": attributes(RunContext),
        "transition": attributes(Transition),
        "examples": examples(),
    }
    text = template.read_text()
    for name, lines in parts.items():
        text = text.replace(f"@{name}@", "\n".join(lines))
    return text


@pytest.mark.parametrize("made", PAGES, ids=lambda made: made.stem)
def test_a_page_is_that_of_the_classes(made):
    assert made.read_text() == page(PAGES[made])


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_passes_the_check_and_runs(example, tmp_path, monkeypatch, capsys):
    text = (ROOT / "examples" / f"{example}.py").read_text()
    name = re.search(r"--policy (\w+:\w+)", text).group(1)
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.syspath_prepend(ROOT / "examples")

    def gstds(*words):
        code, shown = main(list(words)), capsys.readouterr()
        assert code == 0, shown
        return shown.out

    assert f"{name}: nothing was found" in gstds("check", name)
    small = ("--dataset", "digits", "--limit", "256", "--learner", "mlp", "--epochs", "2")
    reference = () if "Remember" in name else ("--picker", "uniform")
    out = gstds(
        "run", "--policy", name, *small, *reference, "--no-tracking", "--out", str(tmp_path / "r")
    )
    assert "finished" in out


if __name__ == "__main__":
    for made, template in PAGES.items():
        made.write_text(page(template))
