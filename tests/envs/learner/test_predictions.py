from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gstds.envs import DataSelectionEnv
from gstds.envs.learner.learner import embedding_width

NAMES = (
    "learner_losses",
    "learner_margin",
    "learner_entropy",
    "learner_probabilities",
    "learner_embeddings",
)


def make(tiny_npz, **options):
    return DataSelectionEnv(
        **{"dataset": tiny_npz, "epochs": 1, "batch_size": 32, "reward": "none"}
        | {"precision": "float32", "observe": NAMES}
        | options
    )


def test_all_rows_come_from_the_logits_of_the_augmented_view(tiny_npz):
    env = make(tiny_npz)
    view, _ = env.reset(seed=0)
    logits = env.learner.logits(env.loader.images(env.batch, 0)).cpu().numpy().astype(np.float64)
    labels = env.data.train.labels[env.batch]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ordered = np.sort(p, 1)
    np.testing.assert_allclose(view["learner_probabilities"], p, atol=1e-5)
    np.testing.assert_allclose(view["learner_margin"], ordered[:, -1] - ordered[:, -2], atol=1e-5)
    entropy = -(p * np.log(p)).sum(1) / np.log(4)
    np.testing.assert_allclose(view["learner_entropy"], entropy, atol=1e-5)
    losses = -np.log(p[np.arange(32), labels])
    np.testing.assert_allclose(view["learner_losses"], losses, atol=1e-4)


@pytest.mark.parametrize("learner", ["small-cnn", "mlp"])
def test_embeddings_and_residuals_are_the_last_layers_gradient(tiny_npz, learner):
    env = make(tiny_npz, learner=learner)
    view, _ = env.reset(seed=0)
    head = [m for m in env.learner.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    assert view["learner_embeddings"].shape == (32, embedding_width(env.learner))
    images, label = env.loader.images(env.batch[:1], 0), env.data.train.labels[env.batch[:1]]
    env.learner.model.eval()
    loss = F.cross_entropy(env.learner.model(images), env.loader.labels(env.batch[:1]))
    (gradient,) = torch.autograd.grad(loss, head.weight)
    residual = view["learner_probabilities"][0] - np.eye(4)[label[0]]
    expected = np.outer(residual, view["learner_embeddings"][0])
    np.testing.assert_allclose(gradient.cpu().numpy(), expected, atol=1e-5)


def test_the_forward_is_charged_once_and_only_if_something_names_it(tiny_npz):
    spent = []
    for observe in ((), ("learner_margin",), NAMES):
        env = make(tiny_npz, observe=observe)
        env.reset(seed=0)
        spent.append(env.ledger.flops["score"])
        for _ in range(env.total_steps):
            _, _, done, _, _ = env.step(np.ones(32, np.float32))
        assert done
        spent[-1] = spent[-1], env.ledger.flops["score"]
    forward = env.learner.forward_flops
    assert spent[0] == (0, 0)
    assert spent[1] == spent[2] == (32 * forward, len(env.data.train) * forward)


def test_a_learner_without_a_last_linear_layer_is_refused(tiny_npz, tmp_path, monkeypatch):
    (tmp_path / "headless.py").write_text(
        "import torch\n"
        "def net(shape, classes):\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(shape[0], classes, 3),\n"
        "                               torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"learner_embeddings.*Linear"):
        make(tiny_npz, learner="headless:net")


def test_a_forward_takes_no_notice_of_the_batch_norm_of_dropped_samples(tiny_npz):
    env = make(tiny_npz)
    env.reset(seed=0)
    before = {k: v.clone() for k, v in env.learner.model.state_dict().items()}
    env.step(np.zeros(32, np.float32))
    for name, value in env.learner.model.state_dict().items():
        assert torch.equal(value, before[name]), name
