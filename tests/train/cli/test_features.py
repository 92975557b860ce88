"""``gstds features``: what is damaged is named, and what the message says mends it."""

from __future__ import annotations

import pytest

from gstds.store.feature_store import open_losses
from gstds.train.cli.main import main

NETWORK = """
import torch

def mean_of_rows():
    return lambda images: images.float().mean(3).flatten(1)
"""


@pytest.fixture
def features(tiny_npz, tmp_path, monkeypatch):
    """Run the command in a cache of its own, as a new process would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.py").write_text(NETWORK)

    def features(*more):
        monkeypatch.setattr("gstds.envs.task.task.held_references", {})
        words = ["--dataset", tiny_npz, "--reference", "rows:mean_of_rows", "--quiet"]
        return main(["features", *words, *more])

    return features


def flip(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))


def held(path):
    """What a file holds; safetensors writes the entries of a header in any order."""
    if path.suffix == ".npy":
        return path.read_bytes()
    losses, manifest = open_losses(path)
    return losses.tobytes(), manifest


def test_a_whole_store_is_verified(features, capsys):
    assert features() == 0
    assert features("--verify") == 0
    assert "rows of 24) verified" in capsys.readouterr().out


@pytest.mark.parametrize("pattern", ["features/*/features.npy", "losses/*.safetensors"])
def test_a_flipped_bit_is_named_and_the_message_mends_it(features, tmp_path, capsys, pattern):
    assert features() == 0
    (path,) = (tmp_path / "cache").glob(pattern)
    whole = held(path)
    flip(path)
    for _ in range(2):
        assert features("--verify") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(path).removesuffix("/features.npy") in error
        assert "gstds features --rebuild" in error
    assert features("--rebuild", "--verify") == 0
    assert held(path) == whole
