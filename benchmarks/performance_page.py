"""Write docs/performance.md from what the benchmarks left in docs/results/performance.

    python benchmarks/performance_page.py [--run [--quick]]

`--run` runs every benchmark first, one after the other. No figure of its tables is typed by
hand; one whose machine had other work when it was measured, or that a quick run gave, is marked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interleaved import RESULTS, ROOT

from gstds.common.files import write_text

PAGE = ROOT / "docs" / "performance.md"

# What is to be reached, of which benchmark, and the cases that count (a part of their names).
ROWS = [
    ("selection on the critical path, ResNet-18", "selection-share", "resnet18, N", "ahead"),
    ("the same, small-cnn", "selection-share", "small-cnn, N", "ahead"),
    ("realized saving, ResNet-18", "realized-saving-resnet18", "", ""),
    ("the same, small-cnn", "realized-saving-small-cnn", "", ""),
    ("the same, small-cnn, one thread each", "realized-saving-small-cnn-1-thread", "", ""),
    ("full policy against a loop by hand, ResNet-18", "hand-loop", "resnet18", "/ hand"),
    ("the same, small-cnn", "hand-loop", "small-cnn", "/ hand"),
    ("default precision and layout against plain float32", "hand-loop", "resnet18", "/ plain"),
    (
        "Fiedler vector (normalized), N ≤ 512: time / (1.1 best + .2 ms)",
        "fiedler",
        "ours / (1.1",
        "",
    ),
    ("the same, N ≥ 2,048: best dense / ours", "fiedler", "eigh / ours", ""),
    ("the same: best iterative / ours", "fiedler", "/ ours", "-eigh"),
    ("growth (unnormalized, uniform features) t(131,072) / t(32,768)", "fiedler-growth", "t(", ""),
    ("share of the memory's bandwidth", "fiedler-growth", "bandwidth", ""),
    ("peak memory / features", "fiedler-growth", "memory", ""),
    ("reference features / bare forward", "reference-features", "", ""),
    ("MLflow tracking's share of a run", "tracking-share", "", ""),
    ("a short run, whole, tracked / import torch", "startup", ", tracked", ""),
    ("the same, untracked", "startup", "untracked", ""),
    ("the same, until the first update", "startup", "update", ""),
    ("seconds until its first line on a terminal", "startup", "first line", ""),
    ("seconds of `gstds list policies`", "startup", "list", ""),
    ("JPEG files: keep .25 / keep 1", "jpeg-folder", "", ""),
    ("an agent's environment: reset / 50 ms", "agent-speed", "reset", ""),
    ("two environments at once / one", "agent-speed", "two", ""),
]
SCRIPTS = {
    "selection-share": "selection_share.py",
    "realized-saving-resnet18": "realized_saving.py --learner resnet18",
    "realized-saving-small-cnn": "realized_saving.py --learner small-cnn",
    "realized-saving-small-cnn-1-thread": "realized_saving.py --learner small-cnn --threads 1",
    "hand-loop": "hand_loop.py",
    "fiedler": "fiedler_rivals.py",
    "fiedler-growth": "fiedler_growth.py",
    "reference-features": "reference_features.py",
    "tracking-share": "tracking_share.py",
    "startup": "startup.py",
    "jpeg-folder": "jpeg_folder.py",
    "agent-speed": "agent_speed.py",
    "waiting": "waiting.py",
    "compiled": "compiled.py",
    "mends": "mends.py",
}
ONLY_WHOLE = ("compiled", "waiting", "mends", "realized-saving-small-cnn-1-thread")
"""What a quick run leaves out: its least takes minutes."""
TABLES = {
    "store": ("store.py", "--shape 1000000x1280 --rounds 5"),
    "compression": ("compression.py", "--dataset digits --batches 4"),
}
"""What docs/scale.md shows: a script, and its words for a quick run."""
LIMITS = {
    "selection-share": """\
The solve at N = 128, D = 1,280 takes N(N + 1)D operations for the Gram matrix and 4/3·N³ for the
eigenpairs: 24 million in float64. small-cnn's full step takes 1.4 billion, in bfloat16 where the
processor has it. The solve is computed ahead, so it leaves the critical path where a core is free;
where all cores train it only moves (the share of the whole step says by how much). What is left is
waking that thread, and Python's share of the picker and of the observation.""",
    "realized-saving-resnet18": """\
Each update has a part that does not shrink with the kept samples: the calls into torch, and the
optimizer's pass over 11 million weights, their gradients and momenta (134 MB to read, 89 MB to
write, whatever is kept). `--pack` pays it once for each N kept samples.""",
    "realized-saving-small-cnn": """\
small-cnn has 24 thousand weights: at a quarter of 128 samples its kernels are hardly longer than
the calls to them, and such an update is faster with one thread (it gets one), while `full` gains
from two. Worker processes of one thread each (`--workers 2`) lose less.""",
    "realized-saving-small-cnn-1-thread": """\
At a quarter of 128 samples what each update costs whatever it holds, the calls into torch, is a
quarter of its time; `--pack` pays it once for 128.""",
    "fiedler": """\
At N ≤ 512 ours takes one thread, since it runs beside a learner that has the others; the rivals
take both. The Gram matrix, N(N + 1)·D operations in float64, and LAPACK's reduction to tridiagonal
form, 4/3·N³, are about half of it each: 84 and 22 million at N = 256.""",
    "fiedler-growth": """\
Products of one vector with the features read them four fifths as fast as a sum does, of two
vectors at three fifths, of the first block's six at two fifths. The rest is writing the factor
into pages that the system must hand out first, and double-precision vectors, N·8 bytes each.""",
    "tracking-share": """\
Opening and closing a record are a few calls to the store, whatever the run's length; the points go
by a background thread. The shorter the run, the more the former weighs.""",
}
GPU = """\
Measured on one machine with `--device cuda` and not part of the table above, whose figures are of
the processor. What they mean, and how to train on a GPU: [gpu.md](gpu.md)."""
GPU_ALONE = ("gpu", "realized-saving-resnet18-uniform")
NOTES = {
    "fiedler": "The normalized Laplacian, sleeping threads; for the default and a user's own "
    "process see [above](#what-these-figures-do-not-say).",
    "fiedler-growth": "The unnormalized Laplacian, uniform features, sleeping threads.",
    "gpu": "The Fiedler vectors are of the normalized Laplacian; no solver of another library was "
    "run beside them.",
}
"""What a section says of its table before it."""
UNSAID = """\
## What these figures do not say

- *Fiedler vector*: the tables are of the **normalized** Laplacian, D = 1,280, in a process whose
  two threads sleep while they wait, ours with one thread up to N = 512. The default is the
  **unnormalized** one, and a user's own process has torch's threads, which spin: there, in
  release 0.1, ours took 5.1 ms at N = 128 where torch's `eigh` takes 1.1, and 105 ms at N = 4,096
  where `eigsh` takes 31 (with sleeping threads 1.2 and 38). So no row says that ours is as fast
  as the best solver by default; torch's `eigh` is not among the rivals below.
- *Growth*: unnormalized, uniform features, one iteration, which is the easy case; no rival was
  run at these sizes.
- *Loops by hand* have the environment's precision and layout, and no CUDA graph: on the GPU the
  environment replays graphs, and a loop by hand with its own, or with
  `torch.compile(mode="reduce-overhead")`, was not run.
- *Selection on the critical path* is what the training thread waits; "whole step share" is by how
  much the whole step was longer.
- *MLflow tracking's share* is what the training thread spends in it; whole runs were .062 longer
  (sqlite) and .003 shorter (server).
- *JPEG files*: random keep of a quarter against all, both through the environment; a `DataLoader`
  over a random quarter was not run.
- *`Selector` in a loop of one's own* is in no table. In release 0.1 `random` took .37 ms a step
  at 10,000 samples and 25 ms at 30 million, where a loop by hand that draws at random needs no
  such time.
"""
LEFT = """\
What was not kept, and why:

- **Kept counts rounded to few sizes**: the time of a sample hardly depends on it (figures above),
  and padding is charged.
- **Evaluation in larger batches** than 512: slower (figure above), since activations leave the
  cache.
- **Warm starts across steps**: two successive batches of an epoch have no sample in common, so
  there is no vector to start from.
- **Scoring further ahead than one batch**: a solve that does not fit beside one update does not fit
  beside the next either; and while it runs it holds numpy's BLAS to one thread, so it must be
  over before a policy does its own linear algebra.
- **Several batches at once on a GPU**: the Fiedler vectors of 32 batches of 128 (normalized) take
  about as long there as on the processor (below, .88 of it): the device's eigensolver takes them
  one after the other.
- **Pinned memory, side streams**: pixels that stay on the GPU need neither; images read from files
  are decoded for longer than they are copied.
- **Threads that spin while they wait** instead of sleeping (figures above): faster as long as
  nothing else wants a core, slower as soon as something does, so they sleep unless the environment
  sets `OMP_WAIT_POLICY=ACTIVE`. Asleep, an update takes no more threads than it keeps busy.
- **`torch.compile`** (figures above): slower than plain torch on the processor, after seconds to
  a minute of compiling; no option was made of it. On a GPU it was not measured."""


def load(folder: Path) -> dict[str, dict[str, Any]]:
    paths = [folder / f"{name}.json" for name in (*SCRIPTS, *GPU_ALONE)]
    return {path.stem: json.loads(path.read_text()) for path in paths if path.exists()}


def value(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 0.1 else f"{number:.2f}"


def mark(result: dict[str, Any]) -> str:
    return "†" if result["busy"] or result["quick"] else ""


def counts(item: dict[str, Any], part: str, also: str) -> bool:
    if part not in item["case"] or item["reach"] is None:
        return False
    return also[1:] not in item["case"] if also.startswith("-") else also in item["case"]


def summary(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| what | reach | best | worst | reached |", "|---|---|---|---|---|"]
    for what, name, part, also in ROWS:
        result = results.get(name, {"figures": []})
        found = [item for item in result["figures"] if counts(item, part, also)]
        if not found:
            measured = any(part in item["case"] for item in result["figures"])
            told = "no reach on this processor | | see below" if measured else "not measured | | "
            lines.append(f"| {what} | | {told} |")
            continue
        values = sorted((item["value"] for item in found), reverse=not found[0]["at_most"])
        reaches = sorted({item["reach"] for item in found})
        sign = "≤" if found[0]["at_most"] else "≥"
        wanted = " or ".join(f"{sign} {reach:g}" for reach in reaches)
        good = sum(bool(item["reached"]) for item in found)
        lines.append(
            f"| {what} | {wanted} | {value(values[0])}{mark(result)} "
            f"| {value(values[-1])}{mark(result)} | {good} of {len(found)} |"
        )
    return lines


def details(item: dict[str, Any]) -> str:
    seen = {k: v for k, v in item["more"].items() if k != "rounds" and v}
    return "; ".join(f"{name.replace('_', ' ')}: {short(what)}" for name, what in seen.items())


def short(content: Any) -> str:
    if isinstance(content, dict):
        return ", ".join(f"{name} {short(what)}" for name, what in content.items())
    return f"{content:.4g}" if isinstance(content, float) else str(content)


def made_on(result: dict[str, Any]) -> str:
    where = result["hardware"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"{where['processor']}, {where['cores']} cores, GPU {where['gpu']}; "
        f"{result['threads']} threads; {result['rounds']} rounds; other work before on "
        f"{result['others']} cores; {versions}"
    )


def section(name: str, result: dict[str, Any], folder: str = "performance") -> list[str]:
    level = "##" if folder == "performance" else "###"
    lines = [f"{level} {result['title']}", ""]
    lines += [NOTES[name], ""] if name in NOTES else []
    lines += [f"`{result['command']}`", ""]
    lines += ["| case | median | quartiles | reach | beside it |", "|---|---|---|---|---|"]
    for item in result["figures"]:
        sign = "≤" if item["at_most"] else "≥"
        reach = "" if item["reach"] is None else f"{sign} {item['reach']:g}"
        reach += " (missed)" if item["reached"] is False else ""
        quartiles = f"{value(item['low'])} – {value(item['high'])}"
        cells = [item["case"], value(item["value"]) + mark(result), quartiles, reach, details(item)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", made_on(result)]
    missed = any(item["reached"] is False for item in result["figures"])
    if LIMITS.get(name) and missed and level == "##":
        lines += ["", f"**What holds it back.** {LIMITS[name]}"]
    return [*lines, "", f"![{result['title']}](results/{folder}/{name}.png)", ""]


def page(results: dict[str, dict[str, Any]], on_gpu: dict[str, dict[str, Any]]) -> str:
    head = [
        "# Performance",
        "",
        "Written by `python benchmarks/performance_page.py`; no figure here is typed but those "
        "of the next section. `make bench` measures everything again and rewrites this page; "
        "`make bench-quick` tries it all in a few minutes and leaves this page alone.",
        "",
        "Every figure is a ratio of runs that take turns in one process: the median over the "
        "rounds. Best and worst are over the cases listed below.",
        "",
        *summary(results),
        "",
    ]
    if any(mark(result) for result in results.values()):
        head += [
            "† **To be measured again**: the machine had other work, or the run was a quick one "
            "with fewer and smaller cases. On an idle machine: `make bench`.",
            "",
        ]
    head += [UNSAID]
    parts = [line for name, result in results.items() for line in section(name, result)]
    parts += [LEFT, "", "## On a GPU", "", GPU, ""]
    for name, result in on_gpu.items():
        parts += section(name, result, "performance/gpu")
    return "\n".join([*head, *parts])


def commands(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield each benchmark's script and words."""
    for name, script in SCRIPTS.items():
        if not (options.quick and name in ONLY_WHOLE):
            quick = ["--quick"] if options.quick else []
            yield [*script.split(), "--out", str(options.out), *quick]
    for name, (script, quick_words) in TABLES.items():
        words = quick_words.split() if options.quick else []
        yield [script, *words, "--json", str(options.out / f"{name}.json")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", action="store_true", help="run every benchmark first")
    parser.add_argument("--quick", action="store_true", help="quick runs; leaves the page alone")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for script, *words in commands(options) if options.run else ():
        print(f"== {script}", flush=True)
        began = time.monotonic()
        subprocess.run([sys.executable, ROOT / "benchmarks" / script, *words], check=True)
        print(f"   {time.monotonic() - began:.0f} s", flush=True)
    if options.out != RESULTS:
        return
    write_text(PAGE, page(load(RESULTS), load(RESULTS / "gpu")))
    print(PAGE)


if __name__ == "__main__":
    main()
