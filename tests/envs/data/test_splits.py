from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstds.envs.data.splits import make_splits, noisy_labels, split_rows
from gstds.options.world import DataOptions

PARTS = ("train", "reward_validation", "selection_validation", "test")


def labels_of(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(labels)


def names_of(counts):
    return [f"class-{c}" for c in range(len(counts))]


def parts_of(counts, has_test=False, **options):
    labels = labels_of(counts)
    own = ("other images", np.arange(len(counts))) if has_test else None
    parts = make_splits("images", labels, names_of(counts), DataOptions(**options), own)
    if has_test:
        assert parts.pop("test").source == "other images"
    assert {part.source for part in parts.values()} == {"images"}
    return labels, SimpleNamespace(**dict.fromkeys(PARTS) | parts)


many = st.lists(st.integers(2, 60), min_size=2, max_size=8).filter(lambda c: sum(c) > 60)
large = st.lists(st.integers(30, 60), min_size=2, max_size=6)


@settings(deadline=None)
@given(many, st.booleans(), st.integers(0, 2**40))
def test_parts_are_disjoint_complete_and_stratified(counts, has_test, seed):
    labels, parts = parts_of(counts, has_test, split_seed=seed)
    present = [name for name in PARTS if getattr(parts, name) is not None]
    assert ("test" in present) is not has_test
    rows = np.concatenate([getattr(parts, name).rows for name in present])
    assert np.array_equal(np.sort(rows), np.arange(len(labels)))
    shares = {"reward_validation": 0.05, "selection_validation": 0.05, "test": 0.2}
    for name in present[1:]:
        part = getattr(parts, name)
        got = np.bincount(part.labels, minlength=len(counts))
        wanted = shares[name] * np.array(counts)
        assert np.all(got < wanted + 1.001)
        assert np.all((got > wanted - 1.001) | (np.array(counts) < 8))
        assert len(part.rows) >= 1
        assert np.array_equal(part.labels, labels[part.rows])
    assert np.bincount(parts.train.labels, minlength=len(counts)).min() >= 2


def test_sizes_are_exact_where_the_shares_are():
    _, parts = parts_of([100] * 5)
    assert [len(getattr(parts, n).rows) for n in PARTS] == [350, 25, 25, 100]
    assert np.bincount(parts.test.labels).tolist() == [20] * 5
    _, parts = parts_of([100] * 5, has_test=True)
    assert [len(getattr(parts, n).rows) for n in PARTS[:3]] == [450, 25, 25]


@settings(deadline=None)
@given(large, st.integers(0, 1000))
def test_the_seed_decides_and_nothing_else(counts, seed):
    _, first = parts_of(counts, split_seed=seed, label_noise=0.2, duplicates=0.3)
    _, again = parts_of(counts, split_seed=seed, label_noise=0.2, duplicates=0.3)
    _, other = parts_of(counts, split_seed=seed + 1, label_noise=0.2, duplicates=0.3)
    for name in PARTS:
        for field in ("rows", "labels", "true_labels", "groups"):
            one, two = (getattr(getattr(p, name), field) for p in (first, again))
            assert np.array_equal(one, two)
    assert not np.array_equal(first.test.rows, other.test.rows)
    assert not np.array_equal(first.train.rows, other.train.rows)


@settings(deadline=None, max_examples=60)
@given(
    large,
    st.integers(0, 99),
    st.floats(0, 0.3),
    st.floats(0, 0.5),
    st.floats(0, 0.9),
    st.booleans(),
)
def test_options_touch_train_only(counts, seed, noise, duplicates, imbalance, clean):
    labels, plain = parts_of(counts, split_seed=seed)
    try:
        _, parts = parts_of(
            counts,
            split_seed=seed,
            label_noise=noise,
            duplicates=duplicates,
            imbalance=imbalance,
            clean_validation=clean,
        )
    except ValueError as error:
        assert "duplicates must be" in str(error) or "label_noise=" in str(error)  # noqa: PT017
        return
    for name in PARTS[1:]:
        assert np.array_equal(getattr(parts, name).rows, getattr(plain, name).rows)
    for name in PARTS[2:]:
        part = getattr(parts, name)
        assert np.array_equal(part.labels, labels[part.rows])
    reward = parts.reward_validation
    changed = 0 if clean else int(np.floor(noise * len(reward.labels) + 0.5))
    assert (reward.labels != reward.true_labels).sum() == changed
    train = parts.train
    assert np.isin(train.rows, plain.train.rows).all()
    assert np.array_equal(train.true_labels, labels[train.rows])
    assert (train.labels != train.true_labels).sum() == int(
        np.floor(noise * len(train.labels) + 0.5)
    )
    assert np.array_equal(train.groups, train.rows)
    for c in range(len(counts)):
        assert len(np.unique(train.groups[train.labels == c])) >= 2


@settings(deadline=None)
@given(many, st.data())
def test_limit_is_exact_and_stratified(counts, data):
    _, plain = parts_of(counts)
    size, classes = len(plain.train.rows), len(counts)
    limit = data.draw(st.integers(2 * classes, size))
    _, parts = parts_of(counts, limit=limit)
    assert len(parts.train.rows) == limit
    assert len(np.unique(parts.train.rows)) == limit
    got = np.bincount(parts.train.labels, minlength=classes)
    before = np.bincount(plain.train.labels)
    assert got.min() >= 2
    if (limit * before / size >= 2).all():
        assert np.abs(got - limit * before / size).max() < 1.001


def test_imbalance_is_a_long_tail():
    _, parts = parts_of([1000] * 5, has_test=True, imbalance=0.9)
    assert np.bincount(parts.train.labels).tolist() == [900, 506, 285, 160, 90]
    _, parts = parts_of([20] * 3, has_test=True, imbalance=0.999)
    assert np.bincount(parts.train.labels)[2] == 2


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_duplicates_replace_exactly_their_share(share):
    labels, plain = parts_of([200] * 4)
    _, parts = parts_of([200] * 4, duplicates=share)
    assert len(parts.train.rows) == len(plain.train.rows) == 560
    assert len(np.unique(parts.train.groups)) == 560 - round(share * 560)
    assert np.array_equal(parts.train.labels, labels[parts.train.rows])


def test_noise_is_per_sample_and_uniform_over_the_other_classes():
    labels = np.zeros(30_000, dtype=np.int64)
    noisy = noisy_labels(labels, 0.5, 4, np.random.default_rng(0))
    counts = np.bincount(noisy, minlength=4)
    assert counts[0] == 15_000
    # Five standard deviations of a binomial count.
    assert np.abs(counts[1:] - 5000).max() < 5 * np.sqrt(15_000 * 2 / 9)
    _, parts = parts_of([300] * 2, duplicates=0.6, label_noise=0.4)
    train = parts.train
    mixed = [np.unique(train.labels[train.groups == g]) for g in np.unique(train.groups)]
    assert any(len(seen) == 2 for seen in mixed)


def test_total_noise_changes_every_label():
    labels = np.arange(300) % 3
    assert np.all(noisy_labels(labels, 1.0, 3, np.random.default_rng(0)) != labels)


def test_held_out_parts_differ_between_samples_of_a_class():
    draws = [
        split_rows(labels_of([50, 50]), {"test": 0.2}, np.random.default_rng(seed))["test"]
        for seed in range(400)
    ]
    counts = np.bincount(np.concatenate(draws), minlength=100)
    # Each sample is as likely as any other: 80 expected, six standard deviations.
    assert np.abs(counts - 80).max() < 6 * np.sqrt(400 * 0.2 * 0.8)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([30, 1], {}, "class 'class-1' has 1 sample; every class needs at least 2"),
        ([30, 0], {}, "class 'class-1' has 0 samples"),
        ([2, 2], {}, "4 samples of 2 classes are too few"),
        ([30, 30], {"limit": 3}, r"limit must be in \[4, 42\].*got 3"),
        ([30, 30], {"limit": 43}, r"limit must be in \[4, 42\].*got 43"),
        ([30, 30], {"duplicates": 0.95}, r"duplicates must be at most 0.9048 here.*got 0.95"),
        ([30] * 3, {"limit": 6, "label_noise": 0.5}, "label_noise=0.5 leaves class 'class-"),
    ],
)
@pytest.mark.told("Data", "classes of `{counts}` samples `{options}`")
def test_too_little_is_a_clear_error(counts, options, message):
    with pytest.raises(ValueError, match=message):
        parts_of(counts, **options)
