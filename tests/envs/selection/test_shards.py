"""A batch scored and selected from in shards: what each shard would get as a batch of its own."""

from __future__ import annotations

import numpy as np
import pytest

from gstds.envs import DataSelectionEnv
from gstds.observation.batch_view import shard_slices
from gstds.spectral.fiedler import fiedler_vector

COMMON = {"reward": "none", "reference": "untrained", "learner": "mlp", "batch_size": 32}
LEARNER = ("learner_losses", "learner_margin", "learner_probabilities", "learner_embeddings")


def begun(data, **options):
    env = DataSelectionEnv(dataset=data, **COMMON | options)
    return env, env.reset(seed=0)[0]


def test_slices_cover_all_and_differ_by_one_at_most():
    for n in range(9):
        for shards in range(1, 6):
            slices = shard_slices(n, shards)
            assert [i for s in slices for i in range(n)[s]] == list(range(n))
            sizes = [s.stop - s.start for s in slices]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shards", [2, 3, 32])
def test_scores_are_those_of_the_shards_graphs(tiny_npz, shards):
    observe = {"spectral_scores": {"laplacian": "normalized"}, "degrees": {}, "features": {}}
    env, view = begun(tiny_npz, observe=observe, shards=shards)
    features = env.task.reference.features(env.batch)
    gaps = []
    for rows in shard_slices(32, shards):
        spectrum = fiedler_vector(features[rows], laplacian="normalized")
        np.testing.assert_array_equal(view["spectral_scores"][rows], spectrum.scores)
        gaps.append(spectrum.lambda2 / max(spectrum.lambda_max, 1e-12))
    assert view["lambda2"][0] == pytest.approx(np.mean(gaps), rel=1e-5)
    np.testing.assert_allclose(view["features"], features, atol=1e-6)
    whole, seen = begun(tiny_npz, observe=observe)
    assert not np.array_equal(seen["spectral_scores"], view["spectral_scores"])
    assert env.ledger.flops["spectral"] < whole.ledger.flops["spectral"]


def test_what_the_learner_says_is_the_same_of_a_shard(tiny_npz):
    whole, seen = begun(tiny_npz, observe=LEARNER)
    env, view = begun(tiny_npz, observe=LEARNER, shards=3)
    for name in LEARNER:
        np.testing.assert_allclose(view[name], seen[name], rtol=1e-5, atol=1e-6)
    assert env.ledger.flops["score"] == whole.ledger.flops["score"]
    assert env.scorer.images.equal(whole.scorer.images)


def test_a_last_batch_smaller_than_the_shards_is_scored(tiny_npz):
    observe = ("spectral_scores", "learner_losses")
    env, view = begun(tiny_npz, observe=observe, shards=16, batch_size=63)
    sizes = set()
    for _ in range(env.steps_per_epoch):
        sizes.add(int(view["valid"].sum()))
        assert np.isfinite(view["spectral_scores"]).all()
        view = env.step(view["valid"])[0]
    assert min(sizes) < 16


@pytest.mark.parametrize(
    ("shards", "said"),
    [(0, r"in \[1, 32\], got 0"), (33, r"in \[1, 32\], got 33"), (1.5, "a whole number, got 1.5")],
)
def test_a_number_of_shards_that_cannot_be_is_refused(tiny_npz, shards, said):
    with pytest.raises((ValueError, TypeError), match=f"shards must be {said}"):
        begun(tiny_npz, shards=shards)
