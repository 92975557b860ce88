"""Weights with a memory of each sample: gstds run --policy remember_samples:RememberSamples."""

import numpy as np

from gstds import Policy


class RememberSamples(Policy):
    """Weigh a sample by the mean of its losses so far; drop the easiest half of the seen."""

    needs = {"indices": {}}
    normalizer = "drawn"  # weights below 1 make a smaller step
    state = ("_mean", "_count")

    def reset(self, seed, context):
        """Begin a run."""
        self._mean = np.zeros(context.num_samples)
        self._count = np.zeros(context.num_samples)

    def act(self, observation):
        """Return weights (N,): 1 for the unseen, up to 1 for the hard, 0 for the easy."""
        valid = observation["valid"] > 0
        rows = observation["indices"][valid]
        mean, seen = self._mean[rows], self._count[rows] > 0
        scale = max(1e-9, float(np.abs(mean).max(initial=0.0)))
        middle = np.median(mean[seen]) if seen.any() else 0.0
        known = np.where(mean > middle, np.abs(mean) / scale, 0.0)
        weights = np.zeros(len(valid), np.float32)
        weights[valid] = np.where(seen, known, 1.0)
        return weights

    def learn(self, transition):
        """Take in the losses of those that were trained on."""
        told = transition.info["trained"]
        rows, losses = transition.info["indices"][told], transition.info["losses"][told]
        self._count[rows] += 1
        self._mean[rows] += (losses - self._mean[rows]) / self._count[rows]
