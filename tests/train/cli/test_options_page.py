"""docs/options.md is what the options' fields say; this file is run by itself to write it anew."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gstds.envs import EnvOptions
from gstds.options.fields import Options, default_of, groups, kind_of, names
from gstds.options.world import KeepRatioOptions, StepOptions, WorldOptions
from gstds.train.agents.config import AgentConfig
from gstds.train.comparing.comparison import CompareOptions
from gstds.train.running.options import RecordOptions, RunConfig

PAGE = Path(__file__).parents[3] / "docs" / "options.md"
HEAD = """# Options

An option has one name: `--label-noise .2` on the command line, `label_noise: 0.2` in the file of
`--config`, `label_noise=0.2` in `gstds.run`, in an environment and in a run's `config.json`, which
MLflow's parameters repeat. The command line wins over the file. Ranges hold everywhere; a wrong
name or value is refused in [one line](errors.md). `--help` of a command lists those that it takes.

This page is written by `python -m tests.train.cli.test_options_page` from the options' fields, and
compared with them by `tests/train/cli/test_options_page.py`.
"""
PARTS: list[tuple[str, type[Options], tuple[type[Options], ...]]] = [
    ("A run", RunConfig, ()),
    ("The environment alone", StepOptions, ()),
    ("`gstds/KeepRatio-v0`, beside those of the environment", KeepRatioOptions, (EnvOptions,)),
    ("A comparison, beside those of its runs", CompareOptions, ()),
    ("The record", RecordOptions, ()),
    ("`gstds learn`, beside those of `gstds/KeepRatio-v0`", AgentConfig, ()),
]


def values(one: Any) -> str:
    """What an option may be: its choices, its range, or its kind."""
    kind, within = kind_of(one), one.metadata["within"]
    if isinstance(within, tuple):
        return ", ".join(within)
    if within or kind == "int":
        return (within or "[0, inf)").replace("inf", "∞")
    kinds = {"str": "text", "float": "number", "bool": "true, false", "map": "KEY=VALUE …"}
    return (kinds | {"list": "several", "any": "any"})[kind]


def row(one: Any) -> str:
    default = default_of(one)
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    shown = {"None": "", "{}": "", "True": "true", "False": "false"}.get(shown, shown)
    mark = "✓" if one.name in names(EnvOptions) else ""
    text = one.metadata["help"].replace("|", "\\|")
    return f"| `{one.name}` | {shown and f'`{shown}`'} | {values(one)} | {mark} | {text} |"


def page() -> str:
    parts = [HEAD]
    for title, kind, without in PARTS:
        hidden = {name for other in without for name in names(other)}
        parts.append(f"## {title}\n")
        for group, options in groups(kind).items():
            shown = [one for one in options if one.name not in hidden]
            if shown:
                head = f"| {group.lower()} | default | values | environment | what |\n"
                parts.append(head + "|---|---|---|---|---|\n" + "\n".join(map(row, shown)) + "\n")
    return "\n".join(parts)


def test_the_page_of_options_is_what_the_fields_say():
    assert page() == PAGE.read_text(), "run: python -m tests.train.cli.test_options_page"


@pytest.mark.parametrize("kind", [RunConfig, KeepRatioOptions, CompareOptions, AgentConfig])
def test_every_option_has_one_group_and_a_default_that_its_own_checks_take(kind):
    listed = [one.name for group in groups(kind).values() for one in group]
    assert sorted(listed) == sorted(names(kind))
    made = kind()
    for one in fields(kind):
        if one.name in listed and (kind, one.name) != (AgentConfig, "action"):
            assert getattr(made, one.name) == default_of(one)


def test_runs_and_environments_state_what_they_share_once():
    assert set(RunConfig().env_options()) == set(names(WorldOptions)) < set(names(EnvOptions))


if __name__ == "__main__":
    PAGE.write_text(page())
