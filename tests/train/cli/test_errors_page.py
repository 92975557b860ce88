"""docs/errors.md is what bad input really gets; this file is run by itself to write it anew.

The rows of options, commands and functions stand here; those below them are of the tests with the
mark `told` (tests/told.py).
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gstds.train.cli.main import build_parser, main
from tests import told
from tests.told import PAGE, cell

RUN = ["run", "--no-tracking", "--quiet"]
COMPARE = ["compare", "--no-tracking", "--quiet"]
# What an option gets by itself, and what must stand beside it for that.
OPTIONS: dict[str, dict[str, list[str]]] = {
    "run": {
        "--policy": ["gstd"],
        "--policy-params": ["kep=1"],
        "--schedule": ["sigmoyd"],
        "--schedule-params": ["lowest=.2"],
        "--keep": ["1.3"],
        "--picker": ["hybird", "--policy", "custom"],
        "--score": ["los", "--policy", "custom"],
        "--weighting": ["one", "--policy", "custom"],
        "--dataset": ["digit"],
        "--limit": ["7"],
        "--label-noise": ["1.5"],
        "--duplicates": ["1"],
        "--imbalance": ["-0.1"],
        "--split-seed": ["-1"],
        "--clean-validation": ["yes"],
        "--augment": ["yes"],
        "--image-size": ["32"],
        "--learner": ["resnet"],
        "--optimizer": ["adam"],
        "--learning-rate": ["0"],
        "--momentum": ["1"],
        "--weight-decay": ["-1"],
        "--label-smoothing": ["1"],
        "--on-nan": ["ignore"],
        "--precision": ["float16"],
        "--pack": ["yes"],
        "--backend": ["tensorflow"],
        "--compress": ["yes"],
        "--batch-size": ["0"],
        "--epochs": ["1.5"],
        "--setting": ["equal"],
        "--budget": ["0", "--setting", "equal-budget"],
        "--max-draws": ["0"],
        "--reference": ["resnet51"],
        "--charge-reference": ["yes"],
        "--distill": ["2"],
        "--distill-temperature": ["0", "--distill", ".5"],
        "--evaluations": ["0"],
        "--test": ["yes"],
        "--shards": ["0"],
        "--device": ["tpu"],
        "--cuda-graphs": ["yes"],
        "--deterministic": ["yes"],
        "--seed": ["-1"],
        "--config": ["nowhere.yaml"],
        "--out": ["/dev/null"],
        "--checkpoint-every": ["-1"],
        "--tracking-uri": ["file:here"],
        "--resume": ["nowhere"],
    },
    "compare": {
        "--policies": ["gstds", "gstds"],
        "--seeds": ["0"],
        "--baseline": ["jest"],
        "--datasets": ["digit"],
        "--preset": ["sanitty"],
        "--model": ["worst"],
        "--first-seed": ["-1"],
        "--workers": ["0"],
        "--threads": ["0"],
        "--sweep": ["keep"],
        "--tune": ["learning_rate=.1"],
        "--tune-seeds": ["0"],
        "--splits": ["per-run"],
        "--margin": ["0"],
        "--trust": ["referenc"],
        "--paper-defaults": ["yes"],
        "--controls": ["yes"],
    },
}
# Options that take any value, or whose value is only looked at in use.
ANY = {
    "run": {"--debug", "--quiet", "--json", "--experiment", "--no-tracking", "--offline", "--help"}
    | {"--no-model"},
    "compare": {"--ray", "--sweep-optuna"},
}
COMMANDS = [
    ["features", "--reference", "resnet51"],
    ["report", "nowhere"],
    ["ui", "--tracking-uri", "file:here"],
    ["sync", "nowhere"],
    ["list", "polices"],
    ["predict", "nowhere", "photo.png"],
    ["export", "nowhere", "--to", "pt2", "network.pt2"],
    ["data", "fetch", "digit"],
    ["learn", "--agent", "pppo"],
    ["run", "--epoch", "3"],
]


def refusal(words: list[str]) -> str:
    """Return the one line that the command line answers; it must be bad input, exit code 2."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    told = error.getvalue()
    assert code == 2, (words, code, told)
    assert told.count("\n") == 1, (words, told)
    return told.removeprefix("gstds: error: ").strip()


def functions() -> dict[str, Callable[[], Any]]:
    import gstds
    import gstds.envs
    import gstds.reference
    import gstds.selection
    import gstds.spectral
    import gstds.store

    noise = np.array([0.1, 0.6])
    return {
        "gstds.fiedler_vector(np.zeros((2, 3)))": lambda: gstds.fiedler_vector(np.zeros((2, 3))),
        "gstds.fiedler_vector([1, 2])": lambda: gstds.fiedler_vector([1, 2]),
        "gstds.fiedler_vector(x, solver='fast')": lambda: gstds.fiedler_vector(
            np.ones((2, 3)), solver="fast"
        ),
        "gstds.spectral.degrees(np.ones(3))": lambda: gstds.spectral.degrees(np.ones(3)),
        "gstds.selection.kept_count(1.3, 10)": lambda: gstds.selection.kept_count(1.3, 10),
        "gstds.selection.top_k([nan, 1], 1)": lambda: gstds.selection.top_k([np.nan, 1], 1),
        "gstds.selection.uniform(3, noise)": lambda: gstds.selection.uniform(3, noise),
        "gstds.selection.weighted_sample([-1, 1], 1, noise)": (
            lambda: gstds.selection.weighted_sample([-1, 1], 1, noise)
        ),
        "gstds.selection.hybrid([1, 2], [1, 2], 3, noise)": (
            lambda: gstds.selection.hybrid([1, 2], [1, 2], 3, noise)
        ),
        "gstds.make_schedule('sigmoid', keep=0.95)": (
            lambda: gstds.make_schedule("sigmoid", keep=0.95)
        ),
        "gstds.make_schedule('linear', low=1)": lambda: gstds.make_schedule("linear", low=1),
        "gstds.make_schedule('linear')(1.2)": lambda: gstds.make_schedule("linear")(1.2),
        "gstds.FeatureStore.open('nowhere')": lambda: gstds.FeatureStore.open("nowhere"),
        "gstds.store.build_store(..., rows=0)": lambda: gstds.store.build_store(
            "s", rows=0, dim=1, fingerprint="", backbone={}, compute=lambda a, b: None
        ),
        "gstds.reference.make_reference('resnet51', image_side=32)": lambda: (
            gstds.reference.make_reference("resnet51", image_side=32)
        ),
        "gstds.envs.DataSelectionEnv(datasett='digits')": (
            lambda: gstds.envs.DataSelectionEnv(datasett="digits")
        ),
        "env.step(np.full(32, nan))": lambda: _environment().step(np.full(32, np.nan)),
        "env.step(np.ones(3))": lambda: _environment().step(np.ones(3)),
        "env.step(2 * np.ones(32))": lambda: _environment().step(2 * np.ones(32)),
        "env.step before env.reset": lambda: _environment(reset=False).step(np.ones(32)),
        "env.reset(options={'a': 1})": lambda: _environment().reset(options={"a": 1}),
        "env.load_state_dict({})": lambda: _environment().load_state_dict({}),
        "gstds.make_policy('gstd')": lambda: gstds.make_policy("gstd"),
        "gstds.make_policy('learned:nowhere')": lambda: gstds.make_policy("learned:nowhere"),
        "gstds.run('gstds', epochss=2, out='there')": (
            lambda: gstds.run("gstds", epochss=2, out="there")
        ),
    }


def _environment(*, reset: bool = True) -> Any:
    from gstds.envs import DataSelectionEnv

    env = DataSelectionEnv(dataset="digits", batch_size=32, observe=(), reward="none")
    if reset:
        env.reset(seed=0)
    return env


def raised(call: Callable[[], Any]) -> str:
    """Return the kind and the message of what a call raises; it must be a documented kind."""
    try:
        call()
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise AssertionError("it was not refused")


def words_of(command: str, option: str, values: list[str]) -> list[str]:
    start = {"run": RUN, "compare": COMPARE}[command]
    start = ["run", "--quiet"] if option == "--tracking-uri" else start
    return [*start, option, *values]


HEAD = """# What bad input gets

On the command line: one line on standard error, exit code 2, and no file or record is left behind.
In the library: a `ValueError` or `TypeError` (bad arguments), an `OSError` (files), a
`RuntimeError` (a call out of turn); messages name the parameter, its value and the mend. A run that
fails later ends with exit code 1 and says at which step; `--debug` shows the traceback.

This page is written by `python -m tests.train.cli.test_errors_page` from what really happens in
tests, which fail where it differs. Long answers are cut off (…), as are lists of names. What is
made to work rather than refused stands at the end, with what is only warned of.
"""


def own_part() -> str:
    parts = [HEAD]
    for command, options in OPTIONS.items():
        rows = [
            (" ".join([option, *(v or "''" for v in values)]), words_of(command, option, values))
            for option, values in options.items()
        ]
        lines = [f"| `{name}` | {cell(refusal(words))} |" for name, words in rows]
        parts.append(table(f"`gstds {command}`", lines))
    lines = [f"| `gstds {' '.join(words)}` | {cell(refusal(words))} |" for words in COMMANDS]
    parts.append(table("Other commands", lines))
    lines = [f"| `{name}` | {cell(raised(call))} |" for name, call in functions().items()]
    parts.append(table("Functions", lines))
    return "\n".join(parts)


def told_part() -> str:
    """Run the tests that are marked, and return their rows; the process is for nothing else."""
    told.rows = []
    code = pytest.main(["-q", "-m", "told", "-p", "no:xdist", str(PAGE.parents[1] / "tests")])
    assert code == 0
    sections = ((name, [line for at, line in told.rows if at == name]) for name in told.SECTIONS)
    return "".join("\n" + table(name, lines) for name, lines in sections)


def table(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}\n", "| given | answer |", "|---|---|", *lines, ""])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.slow
def test_the_page_of_errors_is_what_happens_and_nothing_is_left(elsewhere):
    told_rows = elsewhere / "told.md"
    code = "from tests.train.cli.test_errors_page import told_part\n"
    code += f"open({str(told_rows)!r}, 'w').write(told_part())"
    subprocess.run([sys.executable, "-c", code], cwd=PAGE.parents[1], check=True)
    expected = own_part() + told_rows.read_text()
    assert expected == PAGE.read_text(), "run: python -m tests.train.cli.test_errors_page"
    assert list(elsewhere.iterdir()) == [told_rows]


def test_every_option_has_a_row_or_takes_anything():
    commands = build_parser().commands
    seen: set[str] = set()
    for command in ("run", "compare"):
        options = {
            names[-1] if len(names) == 1 else names[0] for names in commands[command].options
        }
        options = {"--help" if o == "-h" else o for o in options}
        known = set(OPTIONS[command]) | ANY[command]
        assert known <= options, known - options
        assert options - known - seen == set()
        seen |= known


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        below = told_part()
        os.chdir(folder)
        PAGE.write_text(own_part() + below)
