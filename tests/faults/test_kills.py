"""`kill -9` at random moments: whatever was killed goes on by the same command, with no step lost.

The moments are drawn from the whole life of a process once it has begun to write, and, one time in
five, from its start. A process that was killed is begun again until it ends; then the next one.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gstds.store.feature_store import FeatureStore
from gstds.train.tracking.spool import Item, Point, Spool
from gstds.train.tracking.store import client
from tests.counts import counts

GSTDS = [sys.executable, "-m", "gstds.train.cli.main"]


class Killer:
    """Begins a command again and again, and kills it at random moments.

    Args:
        folder: The working folder of the command.
        seed: Of the moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._moments = random.Random(seed)
        self.kills = 0
        self.head = self.life = 0.0

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        return subprocess.Popen(
            [*GSTDS, *words],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def measure(self, *words: str, begun: Path) -> None:
        """Let the command live once, to know how long it takes until ``begun`` and after it."""
        start = time.monotonic()
        process = self.start(*words)
        while not begun.exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
        self.head = time.monotonic() - start
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out
        self.life = time.monotonic() - start - self.head

    def until_done(self, command: Callable[[], Sequence[str]], most: int) -> None:
        """Run the command, which may depend on what stands there, until it was not killed.

        Args:
            command: Returns its words.
            most: How many kills this killer may have made, all commands together.
        """
        while True:
            process = self.start(*command())
            try:
                early = self._moments.random() < 0.2
                wait = self.head * self._moments.random() if early else self.head
                wait += 0.0 if early else self.life * self._moments.random()
                out, _ = process.communicate(timeout=wait if self.kills < most else 600)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                self.kills += 1
                continue
            assert process.returncode == 0, out
            return


def points_of(store_uri: str, run_id: str) -> dict[str, list[int]]:
    """Return every metric's steps, sorted, as many times as the store holds them."""
    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as database:
        rows = database.execute("select key, step from metrics where run_uuid = ?", (run_id,))
        steps: dict[str, list[int]] = {}
        for key, step in rows:
            steps.setdefault(key, []).append(step)
    return {key: sorted(values) for key, values in steps.items()}


@counts(slow=2, soak=30)
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(
    cases, tmp_path, tiny_npz, store_uri
):
    killer = Killer(tmp_path, seed=cases)
    words = ["run", "--policy", "random", "--dataset", tiny_npz, "--batch-size", "16"]
    words += ["--learner", "mlp", "--epochs", "60", "--learning-rate", "0.01", "--quiet"]
    words += ["--tracking-uri", store_uri, "--checkpoint-every", "10"]
    killer.measure(*words, "--out", "whole", begun=tmp_path / "whole")
    whole = result_of(tmp_path / "whole")
    expected = points_of(store_uri, whole["run_id"])
    assert len(expected["train/loss"]) > 100
    number = 0
    while killer.kills < cases:
        number += 1
        out = f"cut{number}"

        def command(out: str = out) -> Sequence[str]:
            # Killed before it wrote its configuration, there is nothing to resume.
            begun = (tmp_path / out / "config.json").exists()
            return ["run", "--resume", out, "--quiet"] if begun else [*words, "--out", out]

        killer.until_done(command, most=cases)
        cut = result_of(tmp_path / out)
        for name in ("weights_sha256", "test_accuracy", "charged_flops", "steps", "mean_keep"):
            assert cut[name] == whole[name], name
        assert points_of(store_uri, cut["run_id"]) == expected
        assert client(store_uri).get_run(cut["run_id"]).info.status == "FINISHED"
        assert not (tmp_path / "spool").exists()
    print(f"\n{killer.kills} kills in {number} runs")


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


@counts(slow=2, soak=10)
def test_a_store_killed_at_random_moments_ends_as_one_that_was_not(cases, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(6000, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", X=pixels, y=np.arange(6000) % 4)
    words = ["features", "--dataset", f"npz:{tmp_path}/many.npz", "--reference", "untrained"]
    words += ["--limit", "1500", "--quiet"]

    def cache(name: str) -> Path:
        monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / name))
        return tmp_path / name

    killer = Killer(tmp_path, seed=cases)
    whole = cache("whole")
    killer.measure(*words, begun=whole)
    number = 0
    while killer.kills < cases:
        number += 1
        place = cache(f"cut{number}")
        killer.until_done(lambda: words, most=cases)
        assert features_in(place) == features_in(whole)
    print(f"\n{killer.kills} kills in {number} stores")


def features_in(cache: Path) -> dict[str, bytes]:
    """Return the bytes of a cache's whole store, which must be the only one and unharmed."""
    (manifest,) = cache.rglob("manifest.json")
    store = FeatureStore.open(manifest.parent)
    store.verify()
    store.close()
    left = [path.name for path in manifest.parent.iterdir() if path.suffix == ".tmp"]
    assert not left
    kinds = (".npy", ".bin")
    return {p.name: p.read_bytes() for p in manifest.parent.iterdir() if p.suffix in kinds}


@counts(slow=1, soak=10)
def test_a_sync_killed_at_random_moments_delivers_everything_once(cases, tmp_path, store_uri):
    killer = Killer(tmp_path, seed=cases)
    place = client(store_uri)
    experiment = place.create_experiment("kills")
    words = ("sync", "--tracking-uri", store_uri, "--quiet")
    count, each = 60, 500

    def spooled() -> str:
        run_id = str(place.create_run(experiment).info.run_id)
        items = [
            Item(points=tuple(Point("train/loss", float(s), 1000 + s, s) for s in steps))
            for i in range(count)
            for steps in [range(i * each, (i + 1) * each)]
        ]
        Spool(tmp_path / "spool", run_id).append([*items, Item(status="FINISHED", end_time=1)])
        return run_id

    first = spooled()
    killer.measure(*words, begun=tmp_path / "spool" / f"{first}.offset")
    assert points_of(store_uri, first) == {"train/loss": list(range(count * each))}
    number = 0
    while killer.kills < cases:
        number += 1
        run_id = spooled()
        killer.until_done(lambda: words, most=cases)
        assert points_of(store_uri, run_id) == {"train/loss": list(range(count * each))}
        assert place.get_run(run_id).info.status == "FINISHED"
        assert not list(tmp_path.glob("spool/*"))
    print(f"\n{killer.kills} kills in {number} deliveries")


@pytest.fixture(autouse=True)
def _no_other_address(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
