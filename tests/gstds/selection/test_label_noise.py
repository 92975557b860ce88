from __future__ import annotations

import math

import numpy as np
import pytest

from gstds.selection.control import least_loss, wrong_label_chances, wrong_label_share


def noisy_losses(share, n=20_000, classes=10):
    """Losses of a model that knows what can be known: sure but for the wrong labels."""
    rng = np.random.default_rng(0)
    wrong = rng.random(n) < share
    right = 1 - share + share / classes
    # A wrong label is any class but the right one or, once in `classes`, the right one itself.
    changed = wrong & (rng.random(n) < 1 - 1 / classes)
    return -np.log(np.where(changed, share / classes, right)), changed


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.4])
def test_the_share_of_wrong_labels_is_found(share):
    losses, changed = noisy_losses(share)
    found = wrong_label_share(least_loss(losses))
    assert found == pytest.approx(changed.mean(), abs=0.01)


def test_wrong_labels_are_told_from_right_ones():
    losses, changed = noisy_losses(0.2)
    chances = wrong_label_chances(losses, 0.2, 10)
    np.testing.assert_allclose(chances[changed], 1.0)
    assert chances[~changed].max() < 0.03


def test_chances_by_hand():
    chances = wrong_label_chances([0.0, math.log(10), math.log(1000)], 0.2, 10)
    np.testing.assert_allclose(chances, [0.02, 0.2, 1.0])
    assert not wrong_label_chances([0.0, 5.0, 100.0], 0.0, 10).any()


def test_a_tenth_stays_below_the_least_loss():
    assert least_loss(np.arange(101.0)) == pytest.approx(10.0)
    assert wrong_label_share(0.0) == 0.0
    assert wrong_label_share(-math.log(0.75)) == pytest.approx(0.25)


@pytest.mark.parametrize("losses", [[-0.1, 1.0], [np.nan], [np.inf]])
def test_losses_that_are_none_are_refused(losses):
    with pytest.raises(ValueError, match="reference_losses must be finite"):
        wrong_label_chances(losses, 0.1, 10)
    with pytest.raises(ValueError, match="reference_losses"):
        least_loss(losses)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got 1.5"):
        wrong_label_chances([1.0], 1.5, 10)
    with pytest.raises(ValueError, match="classes must be at least 1"):
        wrong_label_chances([1.0], 0.5, 0)
    with pytest.raises(ValueError, match="at least one loss"):
        least_loss([])
