from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gstds.envs.task.foreign_reference import digits_network
from gstds.reference.networks import make_reference

pytestmark = pytest.mark.slow


def test_the_network_knows_digits_and_nothing_changes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path))
    first, second = digits_network(), digits_network()
    images = torch.from_numpy(np.round(load_digits().images * (255 / 16)).astype(np.uint8))
    colored = images[:200, None].expand(-1, 3, -1, -1)
    features = first(colored)
    assert features.shape == (200, 64)
    assert torch.equal(features, second(colored))
    assert features.min() >= 0
    assert not first.training
    labels = load_digits().target[:200]
    centers = np.stack([features[labels == c].mean(0).detach().numpy() for c in range(10)])
    nearest = ((features.detach().numpy()[:, None] - centers) ** 2).sum(-1).argmin(1)
    assert (nearest == labels).mean() > 0.9


def test_it_is_a_reference_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GSTDS_CACHE", str(tmp_path))
    reference = make_reference("gstds.envs.task.foreign_reference:digits_network", image_side=28)
    assert reference.feature_dim == 64
    assert reference.flops_per_image > 0
