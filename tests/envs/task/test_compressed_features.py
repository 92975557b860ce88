"""Stores of shortened features: what is in them, and that they are not taken for others."""

from __future__ import annotations

import numpy as np
import pytest

from gstds.envs.selection.env import DataSelectionEnv
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.task import load_task

NETWORK = """
def means():
    return lambda images: images.float().mean(3).flatten(1)
"""


@pytest.fixture
def reference(tiny_npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("gstds.envs.task.task.held_references", {})
    (tmp_path / "means.py").write_text(NETWORK)

    def load(compress=None, reference="means:means"):
        options = EnvOptions(
            dataset=tiny_npz, reference=reference, compress=compress, observe=("features",)
        )
        found = load_task(options).reference
        return found, found.features(np.arange(len(found.rows)))

    return load


def cosines(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize(
    ("compress", "dim", "dtype", "apart"),
    [("int8", 24, "|i1", 0.01), ("pca-8", 8, "<f2", 0.01), ("pca-8-int8", 8, "|i1", 0.03)],
)
def test_shortened_features_have_the_cosines_of_the_others(reference, compress, dim, dtype, apart):
    full, wanted = reference()
    short, found = reference(compress)
    assert short.store.path != full.store.path
    assert (short.store.dim, short.store.manifest["dtype"]) == (dim, dtype)
    assert short.store.manifest["backbone"]["compression"]["dtype"] in ("int8", "float16")
    assert 1e-6 < np.abs(cosines(found) - cosines(wanted)).max() < apart
    assert short.features_flops >= full.features_flops
    assert not np.array_equal(short.losses, full.losses)
    again, same = reference(compress)
    assert again.store.path == short.store.path
    np.testing.assert_array_equal(same, found)


def test_principal_directions_are_charged(reference):
    full, _ = reference()
    short, _ = reference("pca-8")
    rows = full.store.rows
    fit = 2 * rows * 24**2 + 9 * 24**3
    again = full.features_flops  # the sample's features, computed once more
    wanted = full.features_flops + again + fit + rows * 2 * 24 * 8
    assert short.features_flops == pytest.approx(wanted)


def test_a_run_sees_the_short_features(reference, tiny_npz):
    env = DataSelectionEnv(
        dataset=tiny_npz,
        reference="means:means",
        compress="random-6-int8",
        observe=("spectral_scores", "features"),
        batch_size=16,
        learner="mlp",
    )
    observation, _ = env.reset(seed=0)
    assert observation["features"].shape == (16, 6)
    assert np.linalg.norm(observation["spectral_scores"]) == pytest.approx(1, abs=1e-4)


def test_more_dimensions_than_features_are_refused_before_any_work(reference):
    with pytest.raises(ValueError, match="pca-25 has more dimensions than the reference's 24"):
        reference("pca-25")
