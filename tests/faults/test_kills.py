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
from gstds.train.tracking.log import RunLog
from gstds.train.tracking.uploader import Upload, undelivered
from tests.counts import counts
from tests.stores import delivered

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


def points_of(store_uri: str, folder: Path) -> dict[str, list[int]]:
    """Return every metric's steps, sorted, as many times as the store holds them.

    Whoever delivers, the uploader that outlived a kill or this process, it is one run, and ended.
    """
    run = delivered(store_uri, folder)
    assert run.info.status == "FINISHED"
    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as database:
        name = (run.data.tags["gstds.run_id"],)
        same = "select count(*) from tags where key = 'gstds.run_id' and value = ?"
        assert database.execute(same, name).fetchone() == (1,)
        query = "select key, step from metrics where run_uuid = ?"
        steps: dict[str, list[int]] = {}
        for key, step in database.execute(query, (run.info.run_id,)):
            steps.setdefault(key, []).append(step)
    return {key: sorted(values) for key, values in steps.items()}


@counts(slow=2, soak=50)
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(
    cases, tmp_path, tiny_npz, store_uri
):
    killer = Killer(tmp_path, seed=cases)
    words = ["run", "--policy", "random", "--dataset", tiny_npz, "--batch-size", "16"]
    words += ["--learner", "mlp", "--epochs", "60", "--learning-rate", "0.01", "--quiet"]
    words += ["--tracking-uri", store_uri, "--checkpoint-every", "10"]
    killer.measure(*words, "--out", "whole", begun=tmp_path / "whole")
    whole = result_of(tmp_path / "whole")
    expected = points_of(store_uri, tmp_path / "whole")
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
        assert points_of(store_uri, tmp_path / out) == expected
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
    words = ("sync", "--tracking-uri", store_uri, "--quiet")
    count = 30_000

    def logged(name: str) -> Path:
        log = RunLog(tmp_path / name)
        Upload(store_uri).begin(tmp_path / name, log.begin(name=name, params={}, tags={}))
        for step in range(count):
            log.log({"train/loss": float(step)}, step)
        log.finish("finished")
        return tmp_path / name

    first = logged("whole")
    before = (first / "delivery.json").read_bytes()

    class Begun(type(first)):  # type: ignore[misc]
        def exists(self) -> bool:
            return bool(self.read_bytes() != before)

    killer.measure(*words, begun=Begun(first / "delivery.json"))
    assert points_of(store_uri, first) == {"train/loss": list(range(count))}
    number = 0
    while killer.kills < cases:
        number += 1
        folder = logged(f"cut{number}")
        killer.until_done(lambda: words, most=cases)
        assert not undelivered(tmp_path)
        assert points_of(store_uri, folder) == {"train/loss": list(range(count))}
    print(f"\n{killer.kills} kills in {number} deliveries")


@pytest.fixture(autouse=True)
def _no_other_address(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
