"""What the program answers to fixed questions, so that moving code can be seen to change nothing.

    python -m tests.goldens.record FILE

writes the answers: the digest of the final weights of twelve policies in both settings, what
``--json`` holds, and what ``gstds list`` prints. `tests/test_goldens.py` compares them with
``answers.json``; after a change of results that is wanted, write that file anew by this command.

Bits depend on the machine's kernels. So the arithmetic is pinned to what every x86-64 processor
has, by the variables of `PINNED` in the process's environment, and `canary` says whether that
worked: two machines with one canary have one arithmetic.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

PINNED = {
    "ATEN_CPU_CAPABILITY": "default",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-FMA",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENBLAS_NUM_THREADS": "1",
}
"""The arithmetic of every x86-64 processor, on one thread."""

POLICIES = (
    "best",
    "budget",
    "divbs",
    "full",
    "gstds",
    "infobatch",
    "jest",
    "k-center",
    "plateau",
    "random",
    "selective-backprop",
    "stale-big-loss",
)
KINDS = ("policies", "schedules", "scores", "pickers", "datasets", "learners", "references")
KINDS += ("agents",)
CLOCKS = ("seconds", "identity", "run_id", "version", "hardware", "device", "threads", "command")


def pixels():
    """A reference network that costs nothing: brightness, on a coarse grid."""
    return lambda images: images.float().mean(1).flatten(1)[:, ::2] + 1.0


def canary() -> str:
    """Return a digest of this machine's arithmetic: products, convolutions, roots, exponentials."""
    import numpy as np
    import scipy.linalg
    import torch

    numbers = np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32)
    x = torch.from_numpy(numbers)
    images = x.reshape(4, 4, 24, 24).requires_grad_()
    torch.nn.functional.conv2d(images, x[:36].reshape(24, 4, 6, 6)).logsumexp(1).sum().backward()
    answers = [
        numbers @ numbers,
        np.exp(numbers),
        scipy.linalg.eigh(numbers + numbers.T)[1],
        scipy.linalg.eigh((numbers + numbers.T).astype(np.float64))[1],
        (x @ x).numpy(),
        torch.linalg.eigh(x + x.T)[1].numpy(),
        torch.log_softmax(x, 1).numpy(),
        images.grad.numpy(),
    ]
    return hashlib.sha256(b"".join(a.tobytes() for a in answers)).hexdigest()


def without_clocks(value):
    """Return a JSON value with what differs from run to run left out."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(word in k for word in CLOCKS)}
        return {k: without_clocks(v) for k, v in kept.items()}
    return [without_clocks(v) for v in value] if isinstance(value, list) else value


def _answer(*words: str) -> dict:
    from train.cli import main

    code = main([*words, "--no-tracking", "--quiet", "--json", "answer.json"])
    if code:
        raise SystemExit(f"gstds {' '.join(words)}: exit code {code}")
    return json.loads(Path("answer.json").read_text())


def _printed(*words: str) -> str:
    from train.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if main(list(words)):
            raise SystemExit(f"gstds {' '.join(words)} failed")
    return printed.getvalue()


def _data(folder: Path) -> str:
    import numpy as np

    rng = np.random.default_rng(0)
    y = np.arange(640) % 4
    x = rng.integers(0, 120, size=(640, 8, 8))
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2] += 60
    np.savez(folder / "golden.npz", X=x.astype(np.uint8), y=y)
    return "npz:golden.npz"


def answers() -> dict:
    """Ask everything, in a folder of its own, and return the answers."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            common = ["--dataset", _data(Path()), "--reference", f"{__spec__.name}:pixels"]
            common += ["--batch-size", "64", "--epochs", "3", "--precision", "float32"]
            common += ["--label-noise", ".1"]
            runs = {}
            for setting in ("equal-epochs", "equal-budget"):
                words = [*common, "--setting", setting, "--budget", ".5"]
                for policy in POLICIES:
                    run = _answer("run", "--policy", policy, *words)["runs"][0]
                    names = ("weights_sha256", "steps", "mean_keep", "charged_flops")
                    names += ("test_accuracy",)
                    runs[f"{policy}, {setting}"] = {name: run[name] for name in names}
            rows = ["--policies", "gstds", "random", "full", "--seeds", "2"]
            compared = _answer("compare", *rows, *common, "--out", "compared")
            return {
                "canary": canary(),
                "runs": runs,
                "json": without_clocks(compared),
                "lists": {kind: _printed("list", kind) for kind in KINDS},
            }
        finally:
            os.chdir(home)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(answers(), indent=1, sort_keys=True) + "\n")
