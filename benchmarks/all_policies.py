"""Compare every policy, on digits and on 10,000 Fashion-MNIST images, in both settings.

    python benchmarks/all_policies.py --out DIR [--parts digits fashion-mnist] [--workers 2]
        [--document docs/results/policies.md] [--as-it-is]

Two comparisons for each data set and setting, each a `gstds compare` whose command is printed: all
policies, on two seeds (ten on digits, where a run takes a second); then, on ten seeds that were
looked at nowhere before, the five of them with the highest validation accuracy, and the controls.
The test part decides nothing. Finished runs are not repeated, unless sources have changed since;
``--as-it-is`` takes the comparisons that DIR holds. With ``--document`` the tables and
their plots are written there and into ``images`` beside its folder.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gstds.common.files import write_text
from gstds.policies.registry import policy_names
from gstds.train.cli.main import main as gstds
from gstds.train.figures.statistics import with_holm

DATA = {
    "digits": ["--dataset", "digits"],
    "fashion-mnist": ["--dataset", "fashion-mnist", "--limit", "10000"],
}
SETTINGS = {
    "equal-epochs": ["--epochs", "16"],
    "equal-budget": [
        *["--setting", "equal-budget", "--budget", ".25", "--epochs", "32"],
        *["--schedule", "constant", "--keep", ".25"],
    ],
}
ADDED = {"equal-epochs": ["full@epochs=8", "best@policy.keep=.53"], "equal-budget": []}
CONTROLS = ("random", "full", "lowest-degree")
# `best` trains at twice the weight, which is like twice the learning rate.
FAST = {
    "equal-epochs": ["full@learning_rate=.2", "random@learning_rate=.2"],
    "equal-budget": [],
}
SEEDS = {"digits": 10, "fashion-mnist": 2}
FRESH = 10
TITLES = {
    "equal-epochs": "Equal epochs: 16 epochs, sigmoid schedule, mean keep ratio .53",
    "equal-budget": "Equal budget: a quarter of the compute of full training for 32 epochs",
}
Summary = Mapping[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--as-it-is", action="store_true", help="run nothing")
    parser.add_argument("--document", type=Path, help="where the tables go")
    return parser.parse_args()


def compare(folder: Path, words: Sequence[str], as_it_is: bool) -> dict[str, Any]:
    """Run what a comparison lacks, and return what its JSON says, with the command."""
    command = ["compare", *words, "--no-tracking", "--out", str(folder)]
    print("gstds", shlex.join(command), flush=True)
    if not as_it_is and gstds([*command, "--quiet"]):
        raise SystemExit(f"{folder}: the comparison failed")
    done: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    missing = set(words[1 : words.index("--seeds")]) ^ {row["policy"] for row in done["summary"]}
    if missing:
        raise SystemExit(f"{folder}: it holds other rows, see {', '.join(sorted(missing))}")
    return done | {"command": shlex.join(["gstds", *command])}


def five_best(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the policies of the highest mean validation accuracy, the controls left out."""
    accuracies: dict[str, list[float]] = {}
    for run in runs:
        accuracies.setdefault(run["policy"], []).append(run["val_accuracy"] or 0.0)
    mean = {name: sum(values) / len(values) for name, values in accuracies.items()}
    known = [n for n in mean if n not in CONTROLS and not n.startswith("full@")]
    return sorted(known, key=lambda name: -mean[name])[:5]


def part(data: str, setting: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run one data set's comparisons in one setting: all policies, then five with controls."""
    common = [*DATA[data], *SETTINGS[setting], "--workers", str(options.workers)]
    everyone = [*policy_names(), *ADDED[setting]]
    folder = options.out / f"{data}-{setting}"
    words = ["--policies", *everyone, "--seeds", str(SEEDS[data]), "--no-controls", *common]
    every = compare(folder.with_name(folder.name + "-all"), words, options.as_it_is)
    chosen = [*five_best(every["runs"]), *CONTROLS, *FAST[setting]]
    words = ["--policies", *chosen, "--seeds", str(FRESH), "--first-seed", str(FRESH), *common]
    return [every, compare(folder, words, options.as_it_is)]


def table(rows: Sequence[Summary], full_flops: float) -> str:
    """Lay out a summary as Markdown."""
    head = "| policy | n | test % | minus random | p Holm | worst class % | keep | / full | + ref |"
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for row in sorted(with_holm(rows), key=lambda r: -(r["mean"] or 0.0)):
        p = row.get("p_holm")
        cells = [
            row["policy"],
            str(row["n"]),
            _points(row["mean"], row["ci95"]),
            _points(row.get("difference"), row.get("difference_ci95"), sign="+"),
            "-" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0"),
            _points(row["worst_class_accuracy"], None, digits=1),
            f"{row['mean_keep']:.2f}",
            f"{row['charged_flops'] / full_flops:.2f}",
            f"{row['charged_flops_with_reference'] / full_flops:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def controls_table(rows: Sequence[Summary]) -> str:
    """Lay out the tests against the controls as Markdown."""
    lines = ["| policy | control | same | minus control | p Holm |", "|---|---|---|--:|--:|"]
    for row in with_holm(rows):
        gap = _points(row["difference"], row["difference_ci95"], sign="+")
        p = row["p_holm"]
        said_p = "-" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0")
        lines.append(f"| {row['policy']} | {row['control']} | {row['same']} | {gap} | {said_p} |")
    return "\n".join(lines)


def _points(value: float | None, half: float | None, sign: str = "", digits: int = 2) -> str:
    if value is None:
        return "-"
    number = f"{100 * value:{sign}.{digits}f}"
    return number if half is None else f"{number} ± {100 * half:.{digits}f}"


def document(parts: Mapping[tuple[str, str], list[dict[str, Any]]], path: Path, out: Path) -> None:
    """Write all tables into one Markdown file, and their plots beside it."""
    images = path.parent.parent / "images"
    lines: list[str] = []
    for (data, setting), (every, fresh) in parts.items():
        full = float(every["runs"][0]["full_flops"])
        picture = f"policies-{data}-{setting}.png"
        shutil.copyfile(out / f"{data}-{setting}" / "accuracy.png", images / picture)
        lines += [f"## {data}. {TITLES[setting]}", "", f"![Accuracies](../images/{picture})", ""]
        lines += ["The five of the highest validation accuracy in the second table, and controls."]
        lines += ["", table([*fresh["summary"], *fresh["controls_summary"]], full), ""]
        if fresh["against_controls"]:
            lines += [controls_table(fresh["against_controls"]), ""]
        lines += [*_command(fresh), ""]
        lines += ["All policies.", "", table(every["summary"], full), "", *_command(every), ""]
    head, mark, _ = path.read_text().partition(MARK) if path.exists() else ("", "", "")
    write_text(path, (head if mark else "# Every policy\n\n") + MARK + "\n\n" + "\n".join(lines))


MARK = "<!-- from here on: benchmarks/all_policies.py -->"


def _command(comparison: Mapping[str, Any]) -> list[str]:
    words = shlex.split(comparison["command"])
    words[words.index("--out") + 1] = "runs/" + Path(words[words.index("--out") + 1]).name
    return ["```", *_wrapped(shlex.join(words)), "```"]


def _wrapped(text: str, width: int = 96) -> list[str]:
    lines, current = [], ""
    for word in text.split():
        if current and len(current) + len(word) + 3 > width:
            lines.append(current + " \\")
            current = "   "
        current = f"{current} {word}" if current else word
    return [*lines, current]


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    parts = {
        (data, setting): part(data, setting, options)
        for data in options.parts
        for setting in options.settings
    }
    if options.document:
        document(parts, options.document, options.out)
        print(f"tables: {options.document}")


if __name__ == "__main__":
    main()
