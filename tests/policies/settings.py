"""The one table of what the generic tests run: every policy with a name, and a user's plug-ins.

A policy of one's own is enrolled by its name, from the folder that holds it:

    GSTDS_TEST_POLICIES=my_file:FollowTheLoss python -m pytest REPOSITORY/tests/policies
"""

from __future__ import annotations

import os
import sys

import numpy as np

from gstds.observation.spec import observation_bounds
from gstds.policies import KeepRatioPolicy, RunContext, make_policy
from gstds.policies.registry import POLICIES, installed_policies

N, CLASSES, DIM = 24, 4, 6


class PlugIn(KeepRatioPolicy):
    """What a user writes: keep less as the training loss falls."""

    def keep_ratio(self, observation):
        return 0.2 + 0.6 * min(1.0, float(observation["train_loss"][0]) / 2.3)


def pixels():
    """A reference model that costs nothing: brightness, on a coarse grid."""
    return lambda images: images.float().mean(1).flatten(1)[:, ::2] + 1.0


PLUG_IN = f"{__name__}:PlugIn"
OWN = os.environ.get("GSTDS_TEST_POLICIES", "").split()
if OWN and os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
SETTINGS = sorted({*POLICIES, *installed_policies(), PLUG_IN, *OWN})
ALWAYS = {
    "last_losses",
    "visited",
    "age",
    "labels",
    "valid",
    "noise",
    "progress",
    "budget_left",
    "keep_ratio",
    "train_loss",
    "train_loss_ratio",
    "mean_last_loss",
}
CONTEXT = RunContext(
    batch_size=N,
    budget_flops=3.0 * 240 * 10,
    epochs=10,
    forward_flops=1.0,
    max_draws=100,
    num_classes=CLASSES,
    num_samples=240,
    sample_flops=3.0,
    setting="equal-epochs",
    steps_per_epoch=10,
    total_steps=100,
)


def make(name):
    policy = make_policy(name)
    policy.reset(0, CONTEXT)
    return policy


def observation(policy, seed=0, valid=N, progress=0.4):
    """A batch with everything that is always there, and the optional keys that were declared."""
    rng = np.random.default_rng(seed)
    features = np.abs(rng.normal(size=(N, DIM)))
    probabilities = rng.dirichlet(np.ones(CLASSES), size=N)
    every = {
        "last_losses": rng.random(N) * 3,
        "visited": np.ones(N),
        "age": rng.random(N),
        "labels": rng.integers(0, CLASSES, N),
        "valid": np.arange(N) < valid,
        "noise": rng.permutation(N) / N + 1 / 64,
        "progress": [progress],
        "budget_left": [1 - progress / 2],
        "keep_ratio": [0.5],
        "train_loss": [1.0],
        "train_loss_ratio": [0.8],
        "mean_last_loss": [1.2],
    }
    optional = {
        "spectral_scores": rng.random(N),
        "reference_losses": rng.random(N) * 2,
        "learner_losses": rng.random(N) * 3,
        "learner_margin": rng.random(N),
        "learner_entropy": rng.random(N),
        "learner_probabilities": probabilities,
        "learner_embeddings": rng.normal(size=(N, 5)),
        "features": features / np.linalg.norm(features, axis=1, keepdims=True),
        "degrees": rng.random(N),
        "validation_loss": [1.1],
        "validation_accuracy": [0.5],
        "gradient_noise": [0.15],
        "indices": np.where(
            np.arange(N) < valid, np.random.default_rng(seed).permutation(240)[:N], -1
        ),
    }
    for name, (low, high, shape) in observation_bounds(policy.needs, N, CLASSES, DIM, 5).items():
        if name not in every | optional:
            optional[name] = np.full(shape, (low + high) / 2)  # any number may stand for it
    every |= {name: value for name, value in optional.items() if name in policy.needs}
    if "spectral_scores" in policy.needs:
        every |= {"lambda2": [0.2], "eigengap": [0.1], "effective_nodes": [0.4]}
    return {name: np.asarray(value, dtype=np.float32) for name, value in every.items()}
