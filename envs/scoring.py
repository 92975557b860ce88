"""The optional observations of a drawn batch, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from envs.ahead import Ahead
from envs.draws import Draws
from envs.learner import Learner
from envs.learner_view import learner_view
from envs.loader import Loader
from envs.options import scores_with_learner
from envs.world import World, needs_reference
from gstds.cost import Ledger
from gstds.views import spectral_view

__all__ = ["Scorer"]


class Scorer:
    """Scores drawn batches with the reference's cached features and with the learner.

    Args:
        world: Data, and the reference where something asks for one.
        observe: Optional observations, name -> options.
        draws: Which samples a step draws.
        learner: The network under training.
        loader: Loads images.
        ledger: Is charged.
        ahead: Solve a step's batch in a thread of its own once `begin` names it.

    Attributes:
        images: The augmented images (n, C, H, W) of the batch last scored, None if none were
            loaded: the kept ones are trained on without a second load.
    """

    def __init__(
        self,
        world: World,
        observe: Mapping[str, Mapping[str, Any]],
        draws: Draws,
        learner: Learner,
        loader: Loader,
        ledger: Ledger,
        *,
        ahead: bool = False,
    ) -> None:
        # A reference that is there for distillation alone has no say here.
        self._reference = world.reference if needs_reference(observe) else None
        self._observe, self._draws = observe, draws
        self._learner, self._loader, self._ledger = learner, loader, ledger
        # The thread has draws of its own: the others remember one epoch's order at a time.
        self._others = Draws(draws.n, draws.batch_size, draws.seed)
        self._ahead = Ahead(self._view, active=ahead and self._reference is not None)
        self._looks_at_images = scores_with_learner(observe)
        self.images: torch.Tensor | None = None

    def score(self, step: int, *, charge: bool) -> dict[str, Any]:
        """Return the observations of a step's batch; charged unless they were before."""
        self.images = None
        raw = self._score_with_reference(step, charge)
        if self._looks_at_images:
            raw |= self._score_with_learner(step, charge)
        return raw

    def flops(self, step: int) -> float:
        """Return what `score` charges for a step."""
        flops = self._spectral(step)[1]
        if self._looks_at_images:
            flops += len(self._draws.batch(step)) * self._learner.forward_flops
        return flops

    def _score_with_reference(self, step: int, charge: bool) -> dict[str, Any]:
        reference = self._reference
        if reference is None:
            return {}
        view, flops = self._spectral(step)
        if charge:
            self._ledger.charge("spectral", flops)
        return view | {"reference_losses": reference.losses[self._draws.batch(step)]}

    def _score_with_learner(self, step: int, charge: bool) -> dict[str, Any]:
        batch = self._draws.batch(step)
        with self._ledger.timed("score"):
            self.images = self._loader.images(batch, self._draws.epoch(step))
            labels = self._loader.labels(batch)
            view = learner_view(self._learner, self.images, labels, self._observe)
        if charge:
            self._ledger.charge("score", len(batch) * self._learner.forward_flops)
        return dict(view)

    def begin(self, step: int, count: int = 1) -> None:
        """Start on what the cached features say of the batches of ``count`` steps on."""
        self._ahead.begin(step, count)

    def _spectral(self, step: int) -> tuple[dict[str, Any], float]:
        """Return what the cached features say of a step's batch, and its cost; solved once."""
        if self._reference is None:
            return {}, 0.0
        with self._ledger.timed("spectral"):
            return self._ahead.take(step)

    def _view(self, step: int) -> tuple[dict[str, Any], float]:
        assert self._reference is not None  # noqa: S101  (narrows the type)
        features = self._reference.features(self._others.batch(step))
        return spectral_view(features, self._observe)
