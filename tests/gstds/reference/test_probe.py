import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds.reference.probe import MAX_LOSS, cross_fitted_losses, stratified_folds


def blobs(n=300, dim=12, classes=4, seed=0, spread=0.6):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centers = generator.normal(size=(classes, dim))
    features = centers[labels] + spread * generator.normal(size=(n, dim))
    return np.abs(features).astype(np.float32), labels.astype(np.int64), np.arange(n)


def probe(features, labels, groups, **options):
    return cross_fitted_losses(features, labels, groups, **{"num_classes": 4, **options})


def folds_of(labels, groups, folds=5, seed=0):
    return stratified_folds(labels, groups, num_classes=4, folds=folds, seed=seed)


def test_losses_are_those_of_scikit_learns_heads_on_the_same_folds():
    from sklearn.linear_model import LogisticRegression

    features, labels, groups = blobs()
    l2 = 3e-3
    result = probe(features, labels, groups, l2=l2, max_iterations=500)
    fold = folds_of(labels, groups)
    x = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    x /= np.sqrt(x.var(axis=0).sum())
    expected = np.empty(len(x))
    for k in range(5):
        seen = fold != k
        head = LogisticRegression(C=1 / (l2 * seen.sum()), tol=1e-8, max_iter=5000)
        head.fit(x[seen], labels[seen])
        log_p = head.predict_log_proba(x[~seen])
        expected[~seen] = -log_p[np.arange((~seen).sum()), labels[~seen]]
    np.testing.assert_allclose(result.losses, expected, atol=5e-3)
    assert result.losses.dtype == np.float32
    assert result.folds == 5
    assert 0.8 < result.accuracy <= 1


def test_no_label_touches_the_head_that_judges_it():
    # One group per fold pins the folds. The heads that judge sample 7 must then be the same
    # whatever its label is, so its probabilities over the four labels sum to 1.
    features, labels, groups = blobs(n=120)
    pinned = folds_of(labels, groups)
    total = 0.0
    for label in range(4):
        changed = labels.copy()
        changed[7] = label
        result = probe(features, changed, pinned, l2=1e-4, max_iterations=500)
        total += np.exp(-float(result.losses[7]))
    assert total == pytest.approx(1.0, abs=2e-3)


def test_duplicates_never_see_each_other():
    features, labels, _ = blobs(n=60, dim=80, spread=3.0)
    doubled = np.concatenate([features, features])
    twice = np.concatenate([labels, labels])
    together = probe(doubled, twice, np.tile(np.arange(60), 2), l2=1e-5)
    apart = probe(doubled, twice, np.arange(120), l2=1e-5)
    assert apart.losses.mean() < 0.5 * together.losses.mean()


def test_random_labels_cannot_be_learned():
    features, _, groups = blobs(n=400)
    labels = np.random.default_rng(1).integers(0, 4, 400)
    result = probe(features, labels, groups)
    assert result.accuracy < 0.4
    assert result.losses.mean() > 0.95 * np.log(4)


def test_wrong_labels_get_the_largest_losses():
    features, labels, groups = blobs(n=400, spread=0.3)
    noisy = labels.copy()
    noisy[:40] = (noisy[:40] + 1) % 4
    result = probe(features, noisy, groups)
    assert np.median(result.losses[:40]) > np.quantile(result.losses[40:], 0.95)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    data = blobs()
    first, again, other = (probe(*data, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.losses, again.losses)
    assert (first.losses != other.losses).any()


def test_no_global_generator_is_touched():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    probe(*blobs())
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def test_losses_are_finite_and_bounded_even_when_a_head_is_sure_and_wrong():
    features = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    labels = np.repeat(np.arange(4), 10)
    labels[0] = 1
    result = probe(features, labels, np.arange(40), l2=1e-12, max_iterations=1000)
    assert np.isfinite(result.losses).all()
    assert 5 < result.losses[0] <= MAX_LOSS
    assert (result.losses >= 0).all()


def test_the_features_scale_does_not_matter():
    features, labels, groups = blobs()
    base = probe(features, labels, groups)
    scaled = probe(torch.from_numpy(features * 1000), labels, groups)
    np.testing.assert_allclose(base.losses, scaled.losses, atol=0.02)


def test_constant_features_give_the_classes_shares():
    labels = np.arange(200) % 4
    result = probe(np.ones((200, 3), np.float32), labels, np.arange(200))
    np.testing.assert_allclose(result.losses, np.log(4), atol=0.02)


def test_flops_grow_with_the_folds_and_are_counted():
    data = blobs()
    few, many = (probe(*data, folds=folds, max_iterations=5).flops for folds in (2, 10))
    n, dim = data[0].shape
    assert few > 5 * 4 * n * dim * 2 * 4
    assert many > few


@given(
    labels=st.lists(st.integers(0, 3), min_size=30, max_size=120),
    spread=st.integers(1, 3),
    seed=st.integers(0, 5),
)
@settings(max_examples=50, deadline=None)
def test_folds_keep_groups_together_and_classes_apart(labels, spread, seed):
    y = np.array([0, 0, 1, 1, 2, 2, 3, 3, *labels])
    groups = np.arange(len(y)) * 7 % 1009
    groups[8:] = groups[8:] // spread * spread
    fold = folds_of(y, groups, seed=seed)
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    _, first = np.unique(groups, return_index=True)
    sizes = np.bincount(fold[first], minlength=5)
    assert sizes.max() - sizes.min() <= 1


def test_folds_are_stratified_to_one_sample_and_do_not_depend_on_the_rows_order():
    labels = np.repeat(np.arange(4), [3, 10, 52, 101])
    groups = np.random.default_rng(0).permutation(len(labels))
    fold = folds_of(labels, groups)
    for label in range(4):
        sizes = np.bincount(fold[labels == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    order = np.random.default_rng(1).permutation(len(labels))
    np.testing.assert_array_equal(folds_of(labels[order], groups[order]), fold[order])


def test_a_rare_label_inside_mixed_groups_still_lands_in_two_folds():
    labels = np.array([0, 1, 0, 1, *[0] * 30])
    groups = np.array([0, 0, 1, 1, *range(2, 32)])
    for seed in range(20):
        fold = folds_of(labels, groups, seed=seed)
        assert len(set(fold[labels == 1])) == 2


FEATURES, LABELS, GROUPS = blobs(n=40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": FEATURES[0]}, r"features must have the shape \(n, D\)"),
        ({"features": FEATURES[:39]}, r"labels must be whole numbers \(39,\)"),
        ({"features": np.where(FEATURES[3, 2] == FEATURES, np.nan, FEATURES)}, "row 3 is not"),
        ({"features": np.where(FEATURES[3, 2] == FEATURES, np.inf, FEATURES)}, "row 3 is not"),
        ({"labels": LABELS + 1}, r"labels must lie in \[0, 3\], got 1 to 4"),
        ({"labels": LABELS - 1}, r"labels must lie in \[0, 3\], got -1"),
        ({"labels": LABELS.astype(float)}, "labels must be whole numbers"),
        ({"groups": GROUPS[:5]}, "groups must be whole numbers"),
        ({"labels": np.array([3, *[0, 1, 2] * 13])}, "class 3 has 1"),
        ({"groups": LABELS}, "class 0 has 1"),
        ({"groups": np.arange(40) // 4 % 3}, "folds must be at most the 3 groups"),
        ({"l2": 0}, "l2"),
        ({"folds": 1}, "folds"),
        ({"num_classes": 1}, "num_classes"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_bad_input_is_refused(change, message):
    options = {"features": FEATURES, "labels": LABELS, "groups": GROUPS, **change}
    features, labels, groups = (options.pop(key) for key in ("features", "labels", "groups"))
    with pytest.raises(ValueError, match=message):
        probe(features, labels, groups, **options)
