"""Observations with everything in them, for the tests of policies, scores and pickers."""

from __future__ import annotations

import numpy as np

from gstds import policies
from gstds.observation.spec import OPTIONAL_OBSERVATIONS, observation_bounds

N, CLASSES, WIDTH, DIM = 16, 4, 6, 8
CONTEXT = policies.RunContext(
    batch_size=N,
    budget_flops=1.0,
    epochs=10,
    forward_flops=1.0,
    max_draws=100,
    num_classes=CLASSES,
    num_samples=160,
    sample_flops=3.0,
    setting="equal-epochs",
    steps_per_epoch=10,
    total_steps=100,
    feature_dim=DIM,
    embedding_dim=WIDTH,
)


def full_view(seed=0, valid=N, progress=0.5, n=N):
    """Every observation there is, of random numbers."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(CLASSES), n)
    features = rng.random((n, DIM))
    view = {
        "valid": np.arange(n) < valid,
        "noise": rng.permutation(1 << 12)[:n] / (1 << 12),
        "progress": [progress],
        "budget_left": [1 - progress],
        "keep_ratio": [0.5],
        "train_loss": [1.0],
        "mean_last_loss": [1.0],
        "validation_loss": [1.0],
        "validation_accuracy": [0.5],
        "gradient_noise": [0.12],
        "indices": np.where(np.arange(n) < valid, np.arange(n), -1),
        "last_losses": rng.gamma(1.0, 1.0, n),
        "visited": rng.random(n) < 0.8,
        "age": rng.random(n),
        "labels": rng.integers(0, CLASSES, n),
        "spectral_scores": rng.normal(size=n) / np.sqrt(n),
        "lambda2": [0.5],
        "eigengap": [0.5],
        "effective_nodes": [0.5],
        "degrees": rng.random(n),
        "reference_losses": rng.gamma(1.0, 1.0, n),
        "features": features / np.linalg.norm(features, axis=1, keepdims=True),
        "learner_losses": rng.gamma(1.0, 1.0, n),
        "learner_margin": rng.random(n),
        "learner_entropy": rng.random(n),
        "learner_probabilities": probabilities,
        "learner_embeddings": rng.random((n, WIDTH)),
    }
    bounds = observation_bounds(OPTIONAL_OBSERVATIONS, n, CLASSES, DIM, WIDTH)
    for name in bounds.keys() - view.keys():  # any number may stand for it
        low, high, shape = bounds[name]
        view[name] = np.full(shape, (low + high) / 2)
    return {name: np.asarray(value, np.float32) for name, value in view.items()}


def permuted(view, order):
    """The same batch in another order."""
    n = len(order)
    return {name: value[order] if len(value) == n else value for name, value in view.items()}
