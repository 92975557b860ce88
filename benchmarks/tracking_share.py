"""What MLflow tracking takes of a run: a sqlite store, and a server on the loopback address.

    python benchmarks/tracking_share.py [--quick] [--rounds 5]

The run is as large as those of `make run`: gstds, small-cnn, 10 epochs of 10,000 random images of
28×28 (quick: of 1,000, where opening and closing the record weighs ten times more). The share is
the seconds in which a run writes its log over all of its seconds, as each run logs it
(`final/tracking_share`); beside it stands how much longer the run takes than one that nobody
delivers, which has the part of the uploader, a process of its own that imports MLflow anew for each
of these runs. The runs take turns; the next one waits until the uploader has ended.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from interleaved import arguments, figure, interleave, publish, ratio, rounds_of
from stepping import random_images

from gstds.train.running.options import config_from
from gstds.train.running.run import execute
from gstds.train.tracking.log import LOG_NAME
from gstds.train.tracking.uploader import Upload, undelivered

UP_SECONDS = 90
SHARE = "final/tracking_share"


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run an MLflow server of one worker for a while; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'served.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=quiet, stderr=quiet)
    try:
        wait_until_up(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_until_up(address: str) -> None:
    until = time.monotonic() + UP_SECONDS
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):  # noqa: S310  (loopback)
                return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(f"{address} did not answer within {UP_SECONDS} s")


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        random_images("small-cnn", 1_000 if options.quick else 10_000) as data,
        server(Path(name)) as address,
    ):
        folder = Path(name)
        config = config_from(data | {"policy": "gstds", "epochs": 10})
        shares: dict[str, list[float]] = {"sqlite": [], "server": []}
        count = iter(range(10_000))

        def run(kind: str, upload: Upload | None) -> float:
            place = folder / f"run-{next(count)}"
            result = execute(config, place, upload=upload, checkpoint_every=0)
            while upload and undelivered(place):
                time.sleep(0.1)
            if kind != "none":
                lines = (place / LOG_NAME).read_text().splitlines()
                values = [json.loads(line).get("values", {}) for line in lines]
                shares[kind] += [v[SHARE] for v in values if SHARE in v]
            return float(result["wall_seconds"])

        store = f"sqlite:///{folder / 'mlflow.db'}"
        runners = {
            "none": lambda: run("none", None),
            "sqlite": lambda: run("sqlite", Upload(store)),
            "server": lambda: run("server", Upload(address)),
        }
        rounds = 1 if options.quick else rounds_of(options)
        seconds = interleave(runners, rounds)
    figures = []
    for kind, own in shares.items():
        longer = float(np.median(ratio(seconds[kind], seconds["none"]))) - 1
        more = {"whole_run_longer_by": round(longer, 4)}
        more["seconds"] = round(float(np.median(seconds[kind])), 2)
        name = f"{kind}: tracking's share of a run"
        figures.append(figure(name, own[-rounds:], reach=0.01, at_most=True, **more))
    publish("tracking-share", "MLflow tracking's share of a run", figures, options)


if __name__ == "__main__":
    main()
