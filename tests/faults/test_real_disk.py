"""A disk that is really full or read-only: a small tmpfs, where one can be mounted."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gstds.common.state import latest_state
from gstds.store.feature_store import FeatureStore
from gstds.train.cli.main import main
from gstds.train.running.ending import StopFlag
from gstds.train.running.options import config_from
from gstds.train.running.run import RunFailedError, execute
from gstds.train.tracking.log import RunLog
from gstds.train.tracking.uploader import Upload, sync
from tests.stores import delivered, history

MEGABYTES = 6


def mount(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of six megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        made = mount("-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(place))
    except OSError as error:
        pytest.skip(f"there is no mount: {error}")
    if made.returncode:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave not a byte on the disk; return the file to remove again."""
    path = disk / "filler"
    with path.open("ab", buffering=0) as handle:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while handle.write(b"x" * size) == size:
                    pass
    with pytest.raises(OSError) as refused:
        (disk / "more").write_bytes(b"x" * 5000)
    (disk / "more").unlink(missing_ok=True)
    assert refused.value.errno == errno.ENOSPC
    return path


class Then(StopFlag):
    """Never stops a run, but does something after a number of steps."""

    def __init__(self, steps: int, action: Callable[[], object]) -> None:
        self._left, self._action = steps, action

    @property
    def is_set(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self._action()
        return False


def options(dataset, **more):
    return config_from({"dataset": dataset, "policy": "random", "batch_size": 16} | more)


def test_a_disk_that_fills_in_the_middle_of_a_run_costs_nothing(disk, tmp_path, tiny_npz, caplog):
    config = options(tiny_npz, epochs=6)
    whole = execute(config, tmp_path / "whole")
    stop = Then(30, lambda: fill(disk))
    with pytest.raises(RunFailedError, match=r"cannot be written.*--resume"):
        execute(config, disk / "run", stop=stop, checkpoint_every=5)
    assert "No space left on device" in caplog.text
    assert not list((disk / "run").rglob("*.tmp"))
    before = latest_state(disk / "run" / "checkpoints")
    assert before is not None
    assert 0 < before["env"]["step_count"] <= 30
    (disk / "filler").unlink()
    again = execute(config, disk / "run", resume=True)
    assert again["status"] == "finished"
    for name in ("weights_sha256", "test_loss", "charged_flops"):
        assert again[name] == whole[name], name


def test_a_run_on_a_full_disk_is_refused_before_it_trains(disk, tiny_npz, capsys):
    fill(disk)
    words = ["run", "--policy", "random", "--dataset", tiny_npz, "--no-tracking", "--quiet"]
    assert main([*words, "--out", str(disk / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--out" in error
    assert not (disk / "run").exists()


def test_a_store_that_finds_no_room_is_told_and_goes_on_later(disk, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(2000, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", X=pixels, y=np.arange(2000) % 4)
    monkeypatch.setenv("GSTDS_CACHE", str(disk / "cache"))
    filler = fill(disk)
    with filler.open("rb+") as handle:
        handle.truncate(filler.stat().st_size - 1_500_000)
    words = ["features", "--dataset", f"npz:{tmp_path}/many.npz", "--reference", "untrained"]
    words += ["--limit", "1200", "--quiet"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "space" in error
    filler.unlink()
    assert main(words) == 0
    (manifest,) = (disk / "cache").rglob("manifest.json")
    FeatureStore.open(manifest.parent).verify()


def test_a_database_on_a_full_disk_delays_nothing_and_gets_everything_later(
    disk, tmp_path, store_uri
):
    database = disk / "mlflow.db"
    database.write_bytes(Path(store_uri.removeprefix("sqlite:///")).read_bytes())
    uri = f"sqlite:///{database}"
    log = RunLog(tmp_path / "r")
    upload = Upload(uri)
    upload.begin(tmp_path / "r", log.begin(name="full", params={}, tags={}))
    filler = fill(disk)
    for step in range(3000):
        log.log({"train/loss": float(step)}, step)
    log.finish("finished")
    with pytest.raises(ConnectionError, match=r"cannot be|stays in"):
        sync(tmp_path)
    filler.unlink()
    assert delivered(uri, tmp_path / "r").info.status == "FINISHED"
    assert history(uri, tmp_path / "r") == [(i, float(i)) for i in range(3000)]


def test_a_read_only_folder_is_refused_before_training(
    disk, tiny_npz, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert mount("-o", "remount,ro", str(disk)).returncode == 0
    words = ["run", "--policy", "random", "--dataset", tiny_npz, "--quiet"]
    for more in (
        ["--no-tracking", "--out", str(disk / "run")],
        ["--tracking-uri", f"sqlite:///{disk}/mlflow.db"],
        ["--no-tracking", "--json", str(disk / "result.json")],
    ):
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert str(disk) in error
        assert "Read-only file system" in error or "cannot be written" in error
